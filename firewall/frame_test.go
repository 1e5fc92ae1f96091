package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
)

var (
	everyone = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	nobody   = netip.IPv4Unspecified()
)

// ether is an Ethernet frame; the payload ends in the mark, by which it is known again.
func ether(from, to net.HardwareAddr, ethertype uint16, payload []byte, mark string) []byte {
	f := append(append([]byte{}, to...), from...)
	f = binary.BigEndian.AppendUint16(f, ethertype)
	return append(append(f, payload...), mark...)
}

// tagged puts a VLAN tag into a frame.
func tagged(frame []byte, ethertype, id uint16) []byte {
	f := append([]byte{}, frame[:12]...)
	f = binary.BigEndian.AppendUint16(f, ethertype)
	f = binary.BigEndian.AppendUint16(f, id)
	return append(f, frame[12:]...)
}

// arp is an ARP packet from one sender for one target.
func arp(from, to net.HardwareAddr, operation uint16, sender net.HardwareAddr, senderIP, target netip.Addr, mark string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4}
	p = binary.BigEndian.AppendUint16(p, operation)
	p = append(append(p, sender...), senderIP.AsSlice()...)
	p = append(append(p, make([]byte, 6)...), target.AsSlice()...)
	return ether(from, to, 0x0806, p, mark)
}

// udp is a UDP datagram in IPv4 in Ethernet. Its checksum is left out, as IPv4 allows.
func udp(from, to net.HardwareAddr, src, dst netip.AddrPort, body []byte, mark string) []byte {
	body = append(append([]byte{}, body...), mark...)
	u := binary.BigEndian.AppendUint16(nil, src.Port())
	u = binary.BigEndian.AppendUint16(u, dst.Port())
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(body)))
	u = append(append(u, 0, 0), body...)
	h := []byte{0x45, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(20+len(u)))
	h = append(h, 0, 0, 0, 0, 64, 17, 0, 0)
	h = append(append(h, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return ether(from, to, 0x0800, append(h, u...), "")
}

// fragment makes an IPv4 frame the first of several.
func fragment(frame []byte) []byte {
	h := frame[14:34]
	h[6] |= 0x20 // more fragments (RFC 791, section 3.1)
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return frame
}

func checksum(h []byte) uint16 {
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// udp6 is a UDP datagram in IPv6.
func udp6(from, to net.HardwareAddr, mark string) []byte {
	h := []byte{0x60, 0, 0, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(8+len(mark)))
	h = append(h, 17, 255)
	h = append(h, netip.MustParseAddr("fe80::1").AsSlice()...)
	h = append(h, netip.MustParseAddr("ff02::1").AsSlice()...)
	u := []byte{0x1b, 0x58, 0x1b, 0x58}
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(mark)))
	return ether(from, to, 0x86dd, append(append(h, u...), 0, 0), mark)
}

// bootp is the head of a DHCP message of a client.
func bootp(client net.HardwareAddr) []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[28:], client)
	copy(b[236:], []byte{99, 130, 83, 99})
	return b
}
