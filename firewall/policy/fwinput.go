package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// asked are the services of the host that have a key. A port of INPUT's rules that is theirs turns the key.
var asked = []struct {
	protocol Protocol
	port     uint16
	turn     func(*Policy)
}{
	{UDP, portDNS, func(p *Policy) { p.DNS = Forward }},
	{TCP, portDNS, func(p *Policy) { p.DNS = Forward }},
	{UDP, portDHCPServer, func(p *Policy) { p.DHCP = true }},
}

// input translates INPUT, which saw what a capsule sent to the host.
func (f *fwFile) input() {
	mirrored := map[string]bool{}
	for _, r := range f.chains["FORWARD"] {
		mirrored[r.alike()] = true
	}
	decided := make([]bool, len(asked))
	done := false
	for _, r := range f.chains["INPUT"] {
		if done {
			f.note(r.line, neverReached)
			continue
		}
		keep, err := r.begins()
		if err == nil && keep {
			keep, err = f.toHost(r, mirrored[r.alike()])
		}
		if err != nil {
			f.fault(r.line, err)
			continue
		}
		if !keep {
			continue
		}
		for i, a := range asked {
			if !decided[i] && (r.protocol == Any || r.protocol == a.protocol) && anyHas(r.ports, a.port) {
				decided[i] = true
				if r.verdict == "ACCEPT" {
					a.turn(&f.Policy)
					f.keyLine = cmp.Or(f.keyLine, r.line)
				}
			}
		}
		if done = r.protocol == Any && len(r.dst) == 0; !done {
			f.hostRule(r)
			continue
		}
		if r.verdict == "ACCEPT" {
			f.everyone = true
			f.note(r.line, "of the host's services only DHCP and DNS are open, where the original opened all of them")
		}
	}
}

// toHost says whether a rule of INPUT ever matched. The source of what a capsule sends is pinned to its address, so
// one about another source never did; nor did the copy of a rule that FORWARD has about a peer beyond the host. What
// else names a destination is taken to name the host.
func (f *fwFile) toHost(r fwRule, mirrored bool) (bool, error) {
	const never = "never matched: INPUT sees what the capsule sends to the host, and nothing else"
	fromNobody := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/32")} // a DHCP client without an address (RFC 2131, section 4.1)
	everybody := []netip.Prefix{netip.MustParsePrefix("255.255.255.255/32")}
	dhcp := r.protocol == UDP && slices.Equal(r.ports, []PortRange{{portDHCPServer, portDHCPServer}})
	switch {
	case r.to || len(r.src) > 0 && !slices.Equal(r.src, fromNobody) || len(r.dst) > 0 && mirrored:
		f.note(r.line, never)
		return false, nil
	case slices.Equal(r.dst, everybody) || slices.Equal(r.src, fromNobody):
		if !dhcp {
			return false, fmt.Errorf("a broadcast, or what has no address, is only ever DHCP: want -p udp --dport 67")
		}
	case len(r.dst) > 0 && (!r.keyed() || len(r.dst) > 1 || !r.dst[0].IsSingleIP() || f.hostAt != "" && f.hostAt != show(r.dst[0])):
		return false, fmt.Errorf("INPUT names a destination, and a capsule reaches the host at one address alone: want no -d")
	case len(r.dst) > 0:
		f.hostAt = show(r.dst[0])
		f.note(r.line, f.hostAt+" is taken for the host's address on the bridge")
	}
	return true, nil
}

// keyed says whether a rule is about nothing but services that have keys.
func (r fwRule) keyed() bool {
	return len(r.ports) > 0 && len(without(without(r.ports, portDNS), portDHCPServer)) == 0
}

// hostRule translates a rule of INPUT but for the ports that have keys.
func (f *fwFile) hostRule(r fwRule) {
	if r.protocol == UDP && slices.Equal(r.sports, []PortRange{{portDHCPClient, portDHCPClient}}) &&
		slices.Equal(r.ports, []PortRange{{portDHCPServer, portDHCPServer}}) {
		return
	}
	rule, err := r.policyRule()
	if err != nil {
		f.fault(r.line, err)
		return
	}
	rule.Host = true
	rule.Ports = without(without(r.ports, portDNS), portDHCPServer)
	if !r.keyed() {
		f.Rules = append(f.Rules, rule)
	}
}

// without is the ranges less one port.
func without(ranges []PortRange, port uint16) []PortRange {
	var out []PortRange
	for _, r := range ranges {
		if !r.has(port) {
			out = append(out, r)
			continue
		}
		if r.Low < port {
			out = append(out, PortRange{r.Low, port - 1})
		}
		if port < r.High {
			out = append(out, PortRange{port + 1, r.High})
		}
	}
	return out
}
