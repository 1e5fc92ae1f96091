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

// Port is what a tap is a port of, and how, as the kernel has it: whoever asked for isolation, the bridge decides by this.
type Port string

// The ports that a tap can be. A frame never passes from one isolated port to another (br_forward.c), whatever rules there
// are. On another bridge, or on none, the IP layer does not find a capsule's rules.
const (
	NoPort       Port = "none" // of no bridge, or there is no such interface
	OtherPort    Port = "of another bridge"
	OpenPort     Port = "not isolated"
	IsolatedPort Port = "isolated"
)

// links speaks to rtnetlink about taps, by a socket that stays open.
type links struct {
	bridge string // that taps should be ports of

	mu  sync.Mutex // guards the socket and the sequence number
	fd  int
	seq uint32
}

// linkInfo is one interface.
type linkInfo struct {
	name     string
	index    int32
	state    Link
	master   int32 // index of what it is a port of; 0 for nothing
	isolated bool
	port     Port // not in what parseLink makes, which has not seen the bridge
}

// on is the port of an interface, by the index of our bridge; 0 if there is none.
func (i linkInfo) on(bridge int32) Port {
	switch {
	case i.state == NoLink || i.master == 0:
		return NoPort
	case i.master != bridge:
		return OtherPort
	case i.isolated:
		return IsolatedPort
	}
	return OpenPort
}

// placed says whether it is on our bridge.
func (i linkInfo) placed() bool { return i.port == OpenPort || i.port == IsolatedPort }

func openLinks(bridge string) (*links, error) {
	fd, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	l := &links{bridge: bridge, fd: fd}
	runtime.AddCleanup(l, func(fd int) { _ = unix.Close(fd) }, fd)
	return l, nil
}

// taps are the interfaces that are called like a tap of ours, by name. One that comes or goes meanwhile may be missing.
func (l *links) taps() (map[string]linkInfo, error) {
	found, bridge := map[string]linkInfo{}, int32(0)
	const skipStats = 8 // RTEXT_FILTER_SKIP_STATS
	mask := attribute(unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats))
	err := l.ask(linkMessage{kind: unix.RTM_GETLINK, flags: unix.NLM_F_DUMP, attributes: mask}, func(i linkInfo) {
		switch {
		case validTap(i.name):
			found[i.name] = i
		case i.name == l.bridge:
			bridge = i.index
		}
	})
	for tap, i := range found {
		i.port = i.on(bridge)
		found[tap] = i
	}
	return found, err
}

// of is one tap; its state is NoLink if there is none.
func (l *links) of(tap string) (linkInfo, error) {
	i, err := l.named(tap)
	if i.port = NoPort; err == nil && i.master != 0 {
		var bridge linkInfo
		bridge, err = l.named(l.bridge)
		i.port = i.on(bridge.index)
	}
	return i, err
}

// named is an interface, without its port.
func (l *links) named(name string) (linkInfo, error) {
	found := linkInfo{state: NoLink}
	m := linkMessage{kind: unix.RTM_GETLINK, flags: unix.NLM_F_ACK, attributes: attribute(unix.IFLA_IFNAME, []byte(name), []byte{0})}
	err := l.ask(m, func(i linkInfo) {
		if i.name == name { // it could be an alternative name of another interface
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
	m := linkMessage{kind: unix.RTM_NEWLINK, flags: unix.NLM_F_ACK, index: i.index, change: unix.IFF_UP}
	if to == LinkUp {
		m.state = unix.IFF_UP
	}
	return l.tell(m)
}

// isolate isolates a port of a bridge. One that is gone is none.
func (l *links) isolate(i linkInfo) error {
	return l.tell(linkMessage{kind: unix.RTM_SETLINK, flags: unix.NLM_F_ACK, family: unix.AF_BRIDGE, index: i.index,
		attributes: attribute(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, attribute(unix.IFLA_BRPORT_ISOLATED, []byte{1}))})
}

// tell sends a message to which there is no answer.
func (l *links) tell(m linkMessage) error {
	err := l.ask(m, func(linkInfo) {})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// linkMessage is one message about an interface (struct ifinfomsg).
type linkMessage struct {
	kind, flags   uint16
	family        byte
	index         int32
	state, change uint32
	attributes    []byte
}

// ask sends one message about an interface and hands what comes back to f. A system call does not see a context end: it
// waits for other changes of interfaces at most (rtnl_lock), and for an answer no longer than a command may take.
func (l *links) ask(q linkMessage, f func(linkInfo)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+len(q.attributes)))
	b = binary.NativeEndian.AppendUint16(b, q.kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|q.flags)
	b = binary.NativeEndian.AppendUint32(b, l.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel knows
	b = append(b, q.family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(q.index))
	b = binary.NativeEndian.AppendUint32(b, q.state)
	b = binary.NativeEndian.AppendUint32(b, q.change)
	if err := unix.Sendto(l.fd, append(b, q.attributes...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
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
	for kind, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch {
		case kind == unix.IFLA_IFNAME:
			i.name = strings.TrimRight(string(value), "\x00")
		case kind == unix.IFLA_MASTER && len(value) >= 4:
			i.master = int32(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_LINKINFO:
			for kind, value := range attributes(value) {
				if kind == unix.IFLA_INFO_SLAVE_DATA {
					i.isolated = isolatedIn(value)
				}
			}
		}
	}
	return i, true
}

// isolatedIn looks into what a bridge tells of its port (br_port_fill_attrs).
func isolatedIn(port []byte) bool {
	for kind, value := range attributes(port) {
		if kind == unix.IFLA_BRPORT_ISOLATED && len(value) >= 1 {
			return value[0] != 0
		}
	}
	return false
}
