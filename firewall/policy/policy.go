package policy

import (
	"net/netip"
)

// Policy is what a capsule's interface may do. What no rule allows is dropped. The zero value allows nothing.
type Policy struct {
	Name    string // of the file without its extension: 1 to 24 of a-z, 0-9 and -, beginning with a letter
	Source  string // the file that it was read from, for messages
	Digest  string // SHA-256 of the file's bytes, in hex
	Comment string
	Secure  bool // fit to be in force while protected data is attached; see Parse for what it must not hold then
	DHCP    bool // the host's DHCP server may be asked
	DNS     DNS
	SSH     bool // the host's forwarded port leads to port 22 of the interface's address

	Hosts map[string][]netip.Addr // names and their IPv4 addresses: all that DNS answers when it is Static
	Rules []Rule                  // in order: the first that matches a packet decides
}

// DNS says who answers questions for names.
type DNS int

const (
	NoDNS   DNS = iota // nobody
	Static             // the host, from Policy.Hosts alone; nothing is ever forwarded
	Forward            // the host's resolver, which asks the world
)

// Rule allows or denies new connections of one kind. The replies of a connection that was allowed are part of it.
type Rule struct {
	Line      int // in Source, for messages
	Deny      bool
	Direction Direction
	Protocol  Protocol
	Host      bool           // the peer is the host itself, at its address on the bridge; then Peers is empty
	Peers     []netip.Prefix // IPv4; empty without Host means anywhere beyond the host
	Names     []string       // the names that gave some of Peers, for messages
	Ports     []PortRange    // destination ports; empty means all. Only with TCP and UDP.
	Comment   string
}

// Direction is who begins.
type Direction int

const (
	Out Direction = iota // the capsule begins
	In                   // the peer begins
)

// Protocol is an IP protocol.
type Protocol int

const (
	Any Protocol = iota
	TCP
	UDP
	ICMP // echo request only: the rest of ICMP belongs to connections
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ Low, High uint16 }
