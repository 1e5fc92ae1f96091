package main

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// ip6Frame is an IPv6 datagram from the card's link-local address: an echo request or a UDP datagram to dst= (all
// nodes when absent), or what a router or a neighbour says on a link (RFC 4861), or a multicast report (RFC 3810).
func ip6Frame(mark string, a *arguments) builder {
	e, dst := readEnds(a), a.address("dst")
	kind := a.choice("kind", "echo", "udp", "tcp", "rs", "ra", "ns", "na", "mld")
	if !dst.IsValid() {
		dst = netip.MustParseAddr("ff02::1")
	}
	return func(n *nic) [][]byte {
		e := e
		if e.to == nil && dst.IsMulticast() { // RFC 2464, section 7
			a := dst.As16()
			e.to = net.HardwareAddr{0x33, 0x33, a[12], a[13], a[14], a[15]}
		}
		src := linkLocal(n.mac)
		proto, body, extra := payload6(kind, mark, n.mac, src, dst)
		next := proto
		if extra != nil {
			next = 0 // hop-by-hop options come first (RFC 8200, 4.3)
		}
		f := append(e.header(n, 0x86dd), 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(extra)+len(body)))
		f = append(f, next, 255)
		f = append(append(f, src.AsSlice()...), dst.AsSlice()...)
		return [][]byte{append(append(f, extra...), body...)}
	}
}

// payload6 is the upper layer of a datagram, and the extension header before it, if it has one.
func payload6(kind, mark string, mac net.HardwareAddr, src, dst netip.Addr) (proto uint8, body, extra []byte) {
	proto = 58
	at := 2
	switch kind {
	case "echo":
		body = append([]byte{128, 0, 0, 0, 0x70, 0x72, 0, 1}, mark...)
	case "rs":
		body = append([]byte{133, 0, 0, 0, 0, 0, 0, 0}, option6(mark)...)
	case "ra": // a default router, and the prefix 2001:db8:bad::/64 for addresses of one's own
		body = []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0}
		body = append(body, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
		body = append(body, option6(mark)...)
	case "ns":
		body = append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, dst.AsSlice()...)
		body = append(append(body, 1, 1), mac...)
		body = append(body, option6(mark)...)
	case "na":
		body = append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, src.AsSlice()...)
		body = append(append(body, 2, 1), mac...)
		body = append(body, option6(mark)...)
	case "mld": // joins ff02::fb; a record may carry auxiliary data
		extra = []byte{58, 0, 5, 2, 0, 0, 1, 0}
		words := (len(mark) + 3) / 4
		body = append([]byte{143, 0, 0, 0, 0, 0, 0, 1, 4, byte(words), 0, 0}, netip.MustParseAddr("ff02::fb").AsSlice()...)
		body = append(append(body, mark...), make([]byte, words*4-len(mark))...)
	case "udp":
		proto, at = 17, 6
		body = append([]byte{0x13, 0x88, 0x1b, 0x59}, byte((8+len(mark))>>8), byte(8+len(mark)), 0, 0)
		body = append(body, mark...)
	case "tcp":
		proto, at = 6, 16
		body = append([]byte{0x13, 0x88, 0x1b, 0x59, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0}, mark...)
	}
	binary.BigEndian.PutUint16(body[at:], checksum(pseudo(src, dst, proto, len(body)), body))
	return proto, body, extra
}

// option6 is an option of neighbour discovery for experiments (RFC 4727): its length counts units of 8 bytes.
func option6(mark string) []byte {
	units := (len(mark) + 2 + 7) / 8
	return append(append([]byte{253, byte(units)}, mark...), make([]byte, units*8-2-len(mark))...)
}

// linkLocal is the address that a card gives itself (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}
