package main

import "net/netip"

// The options of DHCP that carry text of the client's choice (RFC 2132; 224 is for sites' own use, RFC 3942).
var carriers = map[string]byte{"hostname": 12, "vendor": 60, "clientid": 61, "private": 224}

// dhcpFrame is what a client asks a DHCP server: kind= discover or request; the marker is in the option that carry=
// names. chaddr= is the hardware address in the message, the card's own when absent.
func dhcpFrame(mark string, a *arguments) builder {
	e, chaddr := readEnds(a), a.mac("chaddr")
	kind := a.choice("kind", "discover", "request", "inform")
	carry := carriers[a.choice("carry", "hostname", "vendor", "clientid", "private")]
	return func(n *nic) [][]byte {
		client := chaddr
		if client == nil {
			client = n.mac
		}
		m := make([]byte, 236)
		m[0], m[1], m[2] = 1, 1, 6                  // a request from Ethernet
		copy(m[4:], []byte{0x70, 0x72, 0x6f, 0x62}) // transaction
		copy(m[28:], client)
		m = append(m, 99, 130, 83, 99, 53, 1, 1)
		switch kind {
		case "request":
			m[len(m)-1] = 3
			m = append(append(m, 50, 4), n.ip.AsSlice()...)
		case "inform":
			m[len(m)-1] = 8
			copy(m[12:], n.ip.AsSlice())
		}
		text := []byte(mark)
		if carry == carriers["clientid"] {
			text = append([]byte{0}, text...) // no hardware address but a name
		}
		m = append(append(m, carry, byte(len(text))), text...)
		m = append(m, 255)
		d := datagram{ends: e, src: anybody, dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}), proto: 17, sport: 68, dport: 67}
		return [][]byte{d.frame(n, 0, d.transport(string(m)))}
	}
}
