package firewall

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long after a change of rules is waited for more of them: one command makes many messages.
const quiet = 20 * time.Millisecond

// Changes tells when anybody, this process included, changed rules of nf_tables in this network namespace, within
// milliseconds. What changed is not said: Verify answers that, from what it knows if nothing did. Changes that come
// together are told once, and one that nobody has taken yet is not told again. The channel is closed when ctx ends.
//
// It is no more than a hint: rules of iptables-legacy and kernel settings are not told, and where the kernel gives
// no such messages there is only the log. Who relies on rules looks at them from time to time all the same.
func (c *Chains) Changes(ctx context.Context) <-chan struct{} {
	told := make(chan struct{}, 1)
	f, err := openChanges()
	if err != nil {
		c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "changes of rules are not told by the kernel", slog.Any("error", err))
		context.AfterFunc(ctx, func() { close(told) })
		return told
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	go func() {
		defer close(told)
		defer f.Close()
		defer stop()
		buf := make([]byte, 1<<16)
		for {
			if err := f.SetReadDeadline(time.Time{}); err != nil || ctx.Err() != nil {
				return
			}
			if !read(f, buf) { // waits for the first message
				if ctx.Err() == nil {
					c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "changes of rules are no longer told by the kernel")
					<-ctx.Done()
				}
				return
			}
			if err := f.SetReadDeadline(time.Now().Add(quiet)); err != nil {
				return
			}
			for ctx.Err() == nil && read(f, buf) { // and takes what else comes at once
			}
			select {
			case told <- struct{}{}:
			default:
			}
		}
	}()
	return told
}

// openChanges opens a socket that gets all messages of nf_tables.
func openChanges() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "nf_tables"), nil
}

// read takes one message. More of them than the socket holds is one message too: something changed.
func read(f *os.File, buf []byte) bool {
	_, err := f.Read(buf)
	return err == nil || errors.Is(err, unix.ENOBUFS)
}
