package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long after a change of rules is waited for more of them: one command makes many messages.
const quiet = 20 * time.Millisecond

// Changes tells when anybody, this process included, changed rules of nf_tables in this network namespace or the link of
// a tap, within milliseconds. What changed is not said: Verify answers that, from what it knows if nothing did. Changes
// that come together are told once, and one that nobody has taken yet is not told again. The channel is closed when ctx
// ends. A tap that comes up, as each does that libvirt makes, and has to be down is taken down before it is told.
//
// It is no more than a hint: rules of iptables-legacy and kernel settings are not told, and where the kernel gives
// no such messages there is only the log. Who relies on rules looks at them from time to time all the same.
func (c *Chains) Changes(ctx context.Context) <-chan struct{} {
	told := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for _, source := range []struct {
		what    string
		open    func() (*os.File, error)
		matters func([]byte) bool
	}{
		{"rules", openChanges, func([]byte) bool { return true }},
		{"links", openLinkChanges, func(b []byte) bool { return c.ofTap(ctx, b) }},
	} {
		f, err := source.open()
		if err != nil {
			c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "changes are not told by the kernel", slog.String("of", source.what), slog.Any("error", err))
			continue
		}
		wg.Go(func() {
			defer f.Close()
			if !hear(ctx, f, source.matters, told) {
				c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "changes are no longer told by the kernel", slog.String("of", source.what))
			}
		})
	}
	go func() {
		<-ctx.Done()
		wg.Wait()
		close(told)
	}()
	return told
}

// hear tells of messages that matter until ctx ends; false if it cannot go on before that.
func hear(ctx context.Context, f *os.File, matters func([]byte) bool, told chan<- struct{}) bool {
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 1<<16)
	for {
		if err := f.SetReadDeadline(time.Time{}); err != nil || ctx.Err() != nil {
			return ctx.Err() != nil
		}
		message, ok := read(f, buf) // waits for the first message
		if !ok {
			return ctx.Err() != nil
		}
		if !matters(message) {
			continue
		}
		if err := f.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			return ctx.Err() != nil
		}
		for ctx.Err() == nil { // and takes what else comes at once
			if message, ok = read(f, buf); !ok {
				break
			}
			matters(message)
		}
		select {
		case told <- struct{}{}:
		default:
		}
	}
}

// ofTap says whether a message of rtnetlink is about a tap, and takes those down that have to be. No message at all
// stands for many that were lost.
func (c *Chains) ofTap(ctx context.Context, message []byte) bool {
	matters := len(message) == 0
	for len(message) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(message))
		if size < unix.SizeofNlMsghdr || size > len(message) {
			break
		}
		m := unix.NlMsghdr{Type: binary.NativeEndian.Uint16(message[4:])}
		if i, ok := parseLink(m, message[unix.SizeofNlMsghdr:size]); ok && validTap(i.name) {
			matters = true
			c.guardLink(ctx, i)
		}
		message = message[min((size+3)&^3, len(message)):]
	}
	return matters
}

// openChanges opens a socket that gets all messages of nf_tables.
func openChanges() (*os.File, error) {
	return openGroup("nf_tables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
}

// openLinkChanges opens one that gets all messages about interfaces.
func openLinkChanges() (*os.File, error) {
	return openGroup("links", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
}

func openGroup(name string, protocol, group int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read takes one message. More of them than the socket holds is an empty one: something changed.
func read(f *os.File, buf []byte) ([]byte, bool) {
	n, err := f.Read(buf)
	if errors.Is(err, unix.ENOBUFS) {
		return nil, true
	}
	return buf[:n], err == nil
}
