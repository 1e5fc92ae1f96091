package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// nic is the guest's network card: where frames go, and what an honest sender would be called.
type nic struct {
	write func(frame []byte) error // nil without a card
	end   func()
	mac   net.HardwareAddr
	ip    netip.Addr // the first IPv4 address; 0.0.0.0 when there is none
}

// openNIC opens an interface by name; "" is the first that is not loopback. A guest without one has no card: attacks
// with frames then fail, each for itself.
func openNIC(name string) (*nic, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	for _, i := range all {
		if name != i.Name && (name != "" || i.Flags&net.FlagLoopback != 0) {
			continue
		}
		// Protocol 0: it hears nothing, it only sends (packet(7)).
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("probe: packet socket: %w", err)
		}
		to := &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6}
		n := &nic{mac: i.HardwareAddr, ip: netip.IPv4Unspecified()}
		n.write = func(f []byte) error { return unix.Sendto(fd, f, 0, to) }
		n.end = func() { _ = unix.Close(fd) }
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				n.ip = p.Addr()
				break
			}
		}
		return n, nil
	}
	if name != "" {
		return nil, fmt.Errorf("probe: no interface %s", name)
	}
	return &nic{mac: make(net.HardwareAddr, 6), ip: netip.IPv4Unspecified()}, nil
}

func (n *nic) close() {
	if n.end != nil {
		n.end()
	}
}

func (n *nic) send(frame []byte) error {
	if n.write == nil {
		return errors.New("no network card")
	}
	return n.write(frame)
}

// builder makes the frames of an attack, once it is known who sends them.
type builder func(n *nic) [][]byte

// frames makes a verb that sends what build makes. Every such verb takes the tags of the frame: vlan= is an 802.1Q
// tag, and qinq= an 802.1ad tag outside of it.
func frames(build func(mark string, a *arguments) builder) func(string, *arguments) func(*nic) (string, error) {
	return func(mark string, a *arguments) func(*nic) (string, error) {
		var tags [][2]uint16 // ethertype and identifier, from the inside out
		for _, t := range []struct {
			key       string
			ethertype uint16
		}{{"vlan", 0x8100}, {"qinq", 0x88a8}} {
			if a.has(t.key) {
				tags = append(tags, [2]uint16{t.ethertype, uint16(a.number(t.key, 12))})
			}
		}
		made := build(mark, a)
		return func(n *nic) (string, error) {
			all := made(n)
			for _, f := range all {
				for _, t := range tags {
					f = tag(f, t[0], t[1])
				}
				if err := n.send(f); err != nil {
					return "", err
				}
			}
			return fmt.Sprintf("sent %d", len(all)), nil
		}
	}
}

// tag puts a tag behind the addresses of a frame (IEEE 802.1Q, 9.3).
func tag(frame []byte, ethertype, id uint16) []byte {
	f := append([]byte{}, frame[:12]...)
	f = binary.BigEndian.AppendUint16(f, ethertype)
	f = binary.BigEndian.AppendUint16(f, id)
	return append(f, frame[12:]...)
}
