package policy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

// Verdict is what becomes of a packet.
type Verdict struct {
	Allowed bool
	Line    int    // of the rule that decided, in Policy.Source; 0 when none did
	Why     string // such as "allowed by line 12 of secure.toml (the data API)" or "dropped, no rule"
}

// The ports of the host's own services that a policy has keys for (RFC 1035, section 4.2; RFC 2131, section 4.1), and
// those that a secure policy must not open under any other key (RFC 7858, section 3.1).
const (
	portSSH        = 22
	portDNS        = 53
	portDHCPServer = 67
	portDHCPClient = 68
	portDNSOverTLS = 853
)

// Explain says what becomes of a packet under the policy, and why. The doc of the package has the rules.
func (p Policy) Explain(pk Packet) Verdict {
	if v, decided := always(pk); decided {
		return v
	}
	if v, decided := p.byKey(pk); decided {
		return v
	}
	for _, r := range p.Rules {
		if r.Matches(pk) {
			return Verdict{Allowed: !r.Deny, Line: r.Line, Why: p.byRule(r)}
		}
	}
	return Verdict{Why: "dropped, no rule" + p.hint(pk)}
}

// always decides what no policy opens.
func always(pk Packet) (Verdict, bool) {
	if pk.Host {
		return Verdict{}, false
	}
	if !pk.Peer.Is4() {
		return Verdict{Why: "dropped: the peer is no IPv4 address, and all else is always closed"}, true
	}
	if why := closed(netip.PrefixFrom(pk.Peer, 32)); why != "" {
		return Verdict{Why: fmt.Sprintf("dropped: %v is %s", pk.Peer, why)}, true
	}
	return Verdict{}, false
}

// byKey decides what the keys allow.
func (p Policy) byKey(pk Packet) (Verdict, bool) {
	switch {
	case asksDHCP(pk) && p.DHCP:
		return Verdict{Allowed: true, Why: "allowed: the host's DHCP server"}, true
	case asksDNS(pk) && p.DNS == Static:
		return Verdict{Allowed: true, Why: fmt.Sprintf("allowed: answered from the static table of %d names, never forwarded", len(p.Hosts))}, true
	case asksDNS(pk) && p.DNS == Forward:
		return Verdict{Allowed: true, Why: "allowed: the host's resolver, which asks the world"}, true
	case wantsSSH(pk) && p.SSH:
		return Verdict{Allowed: true, Why: "allowed, through the host's forwarded port"}, true
	}
	return Verdict{}, false
}

func asksDHCP(pk Packet) bool {
	return pk.Host && pk.Direction == Out && pk.Protocol == UDP && pk.Port == portDHCPServer
}

func asksDNS(pk Packet) bool {
	return pk.Host && pk.Direction == Out && (pk.Protocol == UDP || pk.Protocol == TCP) && pk.Port == portDNS
}

func wantsSSH(pk Packet) bool {
	return pk.Direction == In && pk.Protocol == TCP && pk.Port == portSSH
}

// Matches says whether a rule is about a packet.
func (r Rule) Matches(pk Packet) bool {
	switch {
	case r.Direction != pk.Direction, r.Host != pk.Host, r.Protocol != Any && r.Protocol != pk.Protocol:
		return false
	case (r.Protocol == TCP || r.Protocol == UDP) && !anyHas(r.Ports, pk.Port):
		return false
	case r.Host || len(r.Peers) == 0:
		return true
	}
	return slices.ContainsFunc(r.Peers, func(p netip.Prefix) bool { return p.Contains(pk.Peer) })
}

func (p Policy) byRule(r Rule) string {
	text := "allowed"
	if r.Deny {
		text = "dropped"
	}
	if r.Line > 0 {
		text += fmt.Sprintf(" by line %d of %s", r.Line, filepath.Base(p.Source))
	} else {
		text += " by a rule"
	}
	if r.Comment != "" {
		text += " (" + r.Comment + ")"
	}
	return text
}

// hint names the key that a dropped packet would have passed by.
func (p Policy) hint(pk Packet) string {
	switch {
	case asksDHCP(pk):
		return "; dhcp is off"
	case asksDNS(pk):
		return "; dns is \"none\""
	case wantsSSH(pk):
		return "; ssh is off"
	}
	return ""
}
