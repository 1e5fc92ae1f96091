package main

import (
	"encoding/binary"
	"net"
	"net/netip"
)

var (
	everyone = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	anybody  = netip.IPv4Unspecified()
)

// ends are the addresses of a frame: to= is everyone and from= the card's own when they are absent.
type ends struct{ to, from net.HardwareAddr }

func readEnds(a *arguments) ends { return ends{a.mac("to"), a.mac("from")} }

// header is that of an Ethernet frame.
func (e ends) header(n *nic, ethertype uint16) []byte {
	to, from := e.to, e.from
	if to == nil {
		to = everyone
	}
	if from == nil {
		from = n.mac
	}
	return binary.BigEndian.AppendUint16(append(append([]byte{}, to...), from...), ethertype)
}

// plainFrame is a frame of any ethertype= (a number up to 1500 is an 802.3 length, LLC follows), head= in hex, then
// the marker.
func plainFrame(mark string, a *arguments) builder {
	a.need("ethertype")
	e, ethertype, head := readEnds(a), uint16(a.number("ethertype", 16)), a.bytes("head")
	return func(n *nic) [][]byte {
		return [][]byte{append(append(e.header(n, ethertype), head...), mark...)}
	}
}

// arpFrame is ARP (RFC 826): op= 1 asks and 2 answers; sha= and spa= are the sender, own when absent; tha= and tpa=
// the target. The marker stands behind it, where a frame is padded.
func arpFrame(mark string, a *arguments) builder {
	e, op := readEnds(a), a.choice("op", "request", "reply")
	sha, tha, spa, tpa := a.mac("sha"), a.mac("tha"), a.address("spa"), a.address("tpa")
	return func(n *nic) [][]byte {
		sha, spa, tha, tpa := sha, spa, tha, tpa
		if sha == nil {
			sha = n.mac
		}
		if !spa.IsValid() {
			spa = n.ip
		}
		if tha == nil {
			tha = make(net.HardwareAddr, 6)
		}
		if !tpa.IsValid() {
			tpa = spa // gratuitous
		}
		f := append(e.header(n, 0x0806), 0, 1, 8, 0, 6, 4, 0, 1)
		if op == "reply" {
			f[len(f)-1] = 2
		}
		f = append(append(f, sha...), spa.AsSlice()...)
		f = append(append(f, tha...), tpa.AsSlice()...)
		return [][]byte{append(f, mark...)}
	}
}

// checksum is that of the internet protocols (RFC 1071).
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts { // every part but the last has an even length
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudo is what the checksums of TCP, UDP and ICMPv6 cover beside the datagram (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudo(src, dst netip.Addr, proto uint8, length int) []byte {
	p := append(src.AsSlice(), dst.AsSlice()...)
	if src.Is4() {
		return binary.BigEndian.AppendUint16(append(p, 0, proto), uint16(length))
	}
	return append(binary.BigEndian.AppendUint32(p, uint32(length)), 0, 0, 0, proto)
}
