package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Link is whether the kernel hands on what comes to a tap, as ip-link(8) says it.
type Link string

// The states of a tap's link. It is the administrative state (IFF_UP): while it is down the kernel takes no frame from
// whoever holds the tap (tun_get_user) and sends none to it, whatever rules there are; the guest sees no change.
const (
	NoLink   Link = "none" // there is no such interface
	LinkDown Link = "down"
	LinkUp   Link = "up"
)

// links speaks to rtnetlink about taps, by a socket that stays open.
type links struct {
	mu  sync.Mutex // guards the socket and the sequence number
	fd  int
	seq uint32
}

// linkInfo is one interface.
type linkInfo struct {
	name  string
	index int32
	state Link
}

func openLinks() (*links, error) {
	fd, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	l := &links{fd: fd}
	runtime.AddCleanup(l, func(fd int) { _ = unix.Close(fd) }, fd)
	return l, nil
}

// taps are the interfaces that are called like a tap of ours, by name. One that comes or goes meanwhile may be missing.
func (l *links) taps() (map[string]linkInfo, error) {
	found := map[string]linkInfo{}
	const skipStats = 8 // RTEXT_FILTER_SKIP_STATS
	mask := attribute(unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats))
	err := l.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, 0, 0, mask, func(i linkInfo) {
		if validTap(i.name) {
			found[i.name] = i
		}
	})
	return found, err
}

// of is one tap; its state is NoLink if there is none.
func (l *links) of(tap string) (linkInfo, error) {
	found := linkInfo{state: NoLink}
	err := l.ask(unix.RTM_GETLINK, unix.NLM_F_ACK, 0, 0, 0, attribute(unix.IFLA_IFNAME, []byte(tap), []byte{0}), func(i linkInfo) {
		if i.name == tap { // it could be an alternative name of another interface
			found = i
		}
	})
	if errors.Is(err, unix.ENODEV) {
		return found, nil
	}
	return found, err
}

// set changes the state of an interface. One that is gone is none.
func (l *links) set(i linkInfo, to Link) error {
	var flags uint32
	if to == LinkUp {
		flags = unix.IFF_UP
	}
	err := l.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, i.index, flags, unix.IFF_UP, nil, func(linkInfo) {})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// ask sends one message about an interface and hands what comes back to f. A system call does not see a context end: it
// waits for other changes of interfaces at most (rtnl_lock), and for an answer no longer than a command may take.
func (l *links) ask(kind, flags uint16, index int32, state, change uint32, attributes []byte, f func(linkInfo)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+len(attributes)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, l.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)             // port: the kernel knows
	b = append(b, unix.AF_UNSPEC, 0, 0, 0)                 // struct ifinfomsg
	b = binary.NativeEndian.AppendUint32(b, uint32(index)) //
	b = binary.NativeEndian.AppendUint32(b, state)         //
	b = binary.NativeEndian.AppendUint32(b, change)        //
	if err := unix.Sendto(l.fd, append(b, attributes...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("links: send: %w: %w", ErrUnavailable, err)
	}
	return receive(l.fd, func(m unix.NlMsghdr, body []byte) (done bool, err error) {
		switch {
		case m.Seq != l.seq:
			return false, nil
		case m.Type == unix.NLMSG_DONE:
			return true, nil
		case m.Type == unix.NLMSG_ERROR && len(body) >= 4:
			if code := -int32(binary.NativeEndian.Uint32(body)); code != 0 {
				return true, fmt.Errorf("links: %w: %w", ErrUnavailable, unix.Errno(code))
			}
			return true, nil
		}
		if i, ok := parseLink(m, body); ok {
			f(i)
		}
		return false, nil
	})
}

// parseLink reads one message about an interface.
func parseLink(m unix.NlMsghdr, body []byte) (linkInfo, bool) {
	if m.Type != unix.RTM_NEWLINK && m.Type != unix.RTM_DELLINK || len(body) < unix.SizeofIfInfomsg {
		return linkInfo{}, false
	}
	i := linkInfo{index: int32(binary.NativeEndian.Uint32(body[4:])), state: LinkDown}
	if binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0 {
		i.state = LinkUp
	}
	if m.Type == unix.RTM_DELLINK {
		i.state = NoLink
	}
	for attrs := body[unix.SizeofIfInfomsg:]; len(attrs) >= 4; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			break
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == unix.IFLA_IFNAME {
			i.name = strings.TrimRight(string(attrs[4:size]), "\x00")
			break
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return i, true
}
