package main

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// datagram is what an ip4 line asks for.
type datagram struct {
	ends
	src, dst     netip.Addr
	proto        uint8
	sport, dport uint16
	kind         uint8  // of ICMP or IGMP
	flags        uint8  // of TCP
	options      []byte // of IP; a multiple of 4 bytes
	pieces       string
	id           uint16 // of the datagram: its pieces have it in common, and no others
}

// ip4Frames is an IPv4 datagram of any protocol (proto=), whole or in pieces=: "first" is a first piece whose rest never
// comes, "rest" a later one that nothing came before, "tiny" has 8 bytes in the first, which cuts a TCP header, and
// "overlap" says 8 bytes twice (RFC 1858).
func ip4Frames(mark string, a *arguments) builder {
	a.need("dst")
	d := datagram{
		ends: readEnds(a), src: a.address("src"), dst: a.address("dst"), proto: uint8(a.number("proto", 8)),
		sport: uint16(a.number("sport", 16)), dport: uint16(a.number("dport", 16)),
		kind: uint8(a.number("kind", 8)), flags: uint8(a.number("flags", 8)),
		options: a.bytes("options"), id: identify(mark), pieces: a.choice("pieces", "whole", "first", "rest", "tiny", "overlap"),
	}
	if d.sport == 0 {
		d.sport = 5000
	}
	if d.flags == 0 {
		d.flags = 0x02 // SYN
	}
	return func(n *nic) [][]byte {
		d := d
		if !d.src.IsValid() {
			d.src = n.ip
		}
		return d.frames(n, d.transport(mark))
	}
}

func identify(mark string) uint16 { return uint16(crc32.ChecksumIEEE([]byte(mark))) }

// transport is what the datagram carries.
func (d datagram) transport(mark string) []byte {
	var b []byte
	at := -1 // where the checksum goes
	cover := []byte(nil)
	switch d.proto {
	case 1: // ICMP: an echo request when kind is absent
		kind := d.kind
		if kind == 0 {
			kind = 8
		}
		b, at = []byte{kind, 0, 0, 0, 0x70, 0x72, 0, 1}, 2
	case 2: // IGMPv2: a report when kind is absent
		kind := d.kind
		if kind == 0 {
			kind = 0x16
		}
		b, at = append([]byte{kind, 0, 0, 0}, d.dst.AsSlice()...), 2
	case 6: // data in a SYN is allowed (RFC 9293, 3.1), and conntrack takes it
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, d.sport), d.dport)
		b, at = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, d.flags, 0xff, 0xff, 0, 0, 0, 0), 16
		cover = pseudo(d.src, d.dst, 6, len(b)+len(mark))
	case 17: // no checksum, as IPv4 allows
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, d.sport), d.dport)
		b = append(binary.BigEndian.AppendUint16(b, uint16(8+len(mark))), 0, 0)
	case 47: // GRE with IPv4 within
		b = []byte{0, 0, 8, 0}
	case 132: // SCTP: ports, tag, no checksum, and a DATA chunk
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, d.sport), d.dport)
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3)
		b = binary.BigEndian.AppendUint16(b, uint16(16+len(mark)))
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	b = append(b, mark...)
	if at >= 0 {
		binary.BigEndian.PutUint16(b[at:], checksum(cover, b))
	}
	return b
}

const more = 0x2000 // more fragments follow (RFC 791, 3.1)

func (d datagram) frames(n *nic, body []byte) [][]byte {
	switch d.pieces {
	case "first":
		return [][]byte{d.frame(n, more, padded(body))}
	case "rest":
		return [][]byte{d.frame(n, 3, body)}
	case "tiny":
		return [][]byte{d.frame(n, more, body[:8]), d.frame(n, 1, body[8:])}
	case "overlap":
		return [][]byte{d.frame(n, 1, body[8:]), d.frame(n, more, padded(body)[:16])}
	}
	return [][]byte{d.frame(n, 0, body)}
}

// padded fills a body up to a multiple of 8 bytes, the unit of fragments.
func padded(b []byte) []byte {
	return append(append([]byte{}, b...), make([]byte, (8-len(b)%8)%8)...)
}

// frame is one fragment; place is the offset in units of 8 bytes, and flags.
func (d datagram) frame(n *nic, place uint16, body []byte) []byte {
	h := []byte{0x45 + byte(len(d.options)/4), 0}
	h = binary.BigEndian.AppendUint16(h, uint16(20+len(d.options)+len(body)))
	h = binary.BigEndian.AppendUint16(h, d.id)
	h = binary.BigEndian.AppendUint16(h, place)
	h = append(h, 64, d.proto, 0, 0)
	h = append(append(h, d.src.AsSlice()...), d.dst.AsSlice()...)
	h = append(h, d.options...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(append(d.header(n, 0x0800), h...), body...)
}
