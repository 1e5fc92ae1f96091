package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection between the capsule and a peer.
type Packet struct {
	Direction Direction
	Protocol  Protocol   // TCP, UDP, ICMP (an echo request), or Any for some other protocol of IPv4
	Host      bool       // the peer is the host; then Peer is not looked at
	Peer      netip.Addr // IPv4
	Port      uint16     // the destination's: of the peer when Out, of the capsule when In; 0 without TCP and UDP
}

// packetForm is what Policy.Packet wants, for its errors.
const packetForm = `want "tcp to 192.0.2.1:443", "udp from 192.0.2.7:53" (a port of the capsule), "icmp to 192.0.2.1" or "tcp to host:53"`

// Packet reads "tcp to 192.0.2.1:443", "udp from 192.0.2.7:53" (the peer begins, and 53 is a port of the capsule), "icmp
// to 192.0.2.1", "tcp to host:53" or "other to 192.0.2.1". A name of the policy stands for its first address.
func (p Policy) Packet(text string) (Packet, error) {
	var pk Packet
	words := strings.Fields(strings.ToLower(text))
	if len(words) != 3 {
		return pk, fmt.Errorf("policy: packet %s: has %d words: %s", quote(text), len(words), packetForm)
	}
	protocol := slices.Index(packetWords, words[0])
	if protocol < 0 {
		return pk, fmt.Errorf("policy: packet %s: no protocol %s: want tcp, udp, icmp or other", quote(text), quote(words[0]))
	}
	pk.Protocol = Protocol(protocol)
	switch words[1] {
	case "to":
		pk.Direction = Out
	case "from":
		pk.Direction = In
	default:
		return pk, fmt.Errorf("policy: packet %s: %s is no direction: want to (the capsule begins) or from (the peer begins)", quote(text), quote(words[1]))
	}
	if err := p.packetPeer(&pk, words[2]); err != nil {
		return Packet{}, fmt.Errorf("policy: packet %s: %w", quote(text), err)
	}
	return pk, nil
}

// packetPeer reads "ADDRESS[:PORT]" into pk.
func (p Policy) packetPeer(pk *Packet, text string) error {
	peer, port, ported := strings.Cut(text, ":")
	if strings.Count(text, ":") > 1 {
		return fmt.Errorf("%s is IPv6, which is always closed: name IPv4 addresses", quote(text))
	}
	ports := pk.Protocol == TCP || pk.Protocol == UDP
	switch {
	case ports && !ported:
		return fmt.Errorf("no port: %s", packetForm)
	case !ports && ported:
		return fmt.Errorf("%s has no ports: leave out %s", packetWords[pk.Protocol], quote(":"+port))
	}
	if ported {
		n, ok := parsePort(port)
		if !ok {
			return fmt.Errorf("%s is no port: want 1 to 65535", quote(port))
		}
		pk.Port = n
	}
	if peer == hostWord {
		pk.Host = true
		return nil
	}
	addr, err := netip.ParseAddr(peer)
	if err != nil {
		addresses, ok := p.Hosts[peer]
		if !ok || len(addresses) == 0 {
			return fmt.Errorf("no peer %s: want an IPv4 address, a name of the policy's [hosts] or \"host\"", quote(peer))
		}
		addr = addresses[0]
	}
	pk.Peer = addr
	return nil
}

// packetWords are the protocols in packets; what is none of the three is "other".
var packetWords = []string{Any: "other", TCP: "tcp", UDP: "udp", ICMP: "icmp"}

// String is the packet in the words that Policy.Packet reads.
func (pk Packet) String() string {
	peer := pk.Peer.String()
	if pk.Host {
		peer = hostWord
	}
	direction := "to"
	if pk.Direction == In {
		direction = "from"
	}
	text := word(packetWords, int(pk.Protocol)) + " " + direction + " " + peer
	if pk.Protocol == TCP || pk.Protocol == UDP {
		text += fmt.Sprintf(":%d", pk.Port)
	}
	return text
}

// The words of policy files.
var (
	dnsWords       = []string{NoDNS: "none", Static: "static", Forward: "forward"}
	directionWords = []string{Out: "out", In: "in"}
	protocolWords  = []string{Any: "any", TCP: "tcp", UDP: "udp", ICMP: "icmp"}
	actionWords    = []string{"allow", "deny"}
)

func (d DNS) String() string       { return word(dnsWords, int(d)) }
func (d Direction) String() string { return word(directionWords, int(d)) }
func (p Protocol) String() string  { return word(protocolWords, int(p)) }

func word(words []string, i int) string {
	if i < 0 || i >= len(words) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return words[i]
}
