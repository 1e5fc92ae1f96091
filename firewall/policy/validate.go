package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a policy may hold at most. A rule becomes a handful of rules of the kernel for each capsule under it.
const (
	maxFileBytes = 1 << 20
	maxRules     = 256
	maxHosts     = 256
	maxAddresses = 16 // of one name
	maxPeers     = 64 // of one rule
	maxPorts     = 15 // ranges of one rule
	maxComment   = 200
	maxName      = 24
)

// Validate reports all that a policy must not hold, as [Faults]. Whatever was read from a file passes it.
func (p Policy) Validate() error {
	return p.check(places{}).err()
}

// places tells where in a file a thing stands, and what of it could not be read and so is not judged. Its functions
// may be nil: then a fault stands at its rule's line, and all is judged.
type places struct {
	line   func(rule int, key string) int // rule is an index of Policy.Rules, -1 for keys outside of rules
	broken func(rule int, key string) bool
}

// checker collects what is wrong with one policy.
type checker struct {
	Policy
	places
	faults Faults
}

func (p Policy) check(at places) Faults {
	c := &checker{Policy: p, places: at}
	if err := checkName(p.Name); err != nil {
		c.fault(-1, "name", err)
	}
	c.comment(-1, p.Comment)
	c.keys()
	c.hosts()
	if len(p.Rules) > maxRules {
		c.faultf(-1, "rule", "%d rules: want at most %d (a rule about the host and other peers counts as two)", len(p.Rules), maxRules)
	}
	for i, r := range p.Rules {
		c.rule(i, r)
	}
	return c.faults
}

func (c *checker) fault(rule int, key string, err error) {
	f := Fault{Source: c.Source, Text: err.Error()}
	switch {
	case c.line != nil:
		f.Line = c.line(rule, key)
	case rule >= 0:
		f.Line = c.Rules[rule].Line
	}
	c.faults = append(c.faults, f)
}

func (c *checker) faultf(rule int, key, format string, args ...any) {
	c.fault(rule, key, fmt.Errorf(format, args...))
}

func (c *checker) skip(rule int, key string) bool { return c.broken != nil && c.broken(rule, key) }

// checkName judges the name of a policy, which becomes part of names in the kernel.
func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
		name[0] < 'a' || name[0] > 'z' {
		return fmt.Errorf("the name %s: want 1 to %d of a-z, 0-9 and -, beginning with a letter", quote(name), maxName)
	}
	return nil
}

func (c *checker) comment(rule int, text string) {
	if len(text) > maxComment || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		c.faultf(rule, "comment", "a comment of %d bytes: want at most %d printable ones in one line", len(text), maxComment)
	}
}

func (c *checker) keys() {
	switch {
	case c.DNS < NoDNS || c.DNS > Forward:
		c.faultf(-1, "dns", "dns is %v: want \"none\", \"static\" or \"forward\"", c.DNS)
	case c.Secure && c.DNS == Forward:
		c.faultf(-1, "dns", "dns = \"forward\" in a secure policy: a question for a name carries data to whoever owns the name: want \"static\" or \"none\"")
	}
	if c.Secure && c.SSH {
		c.faultf(-1, "ssh", "ssh = true in a secure policy: whoever is logged in copies data out: want false")
	}
}

func (c *checker) hosts() {
	if len(c.Hosts) > maxHosts {
		c.faultf(-1, "hosts", "%d names: want at most %d", len(c.Hosts), maxHosts)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		key := "hosts." + name
		if err := nameFault(name); err != nil {
			c.fault(-1, key, err)
		} else if name != strings.ToLower(name) {
			c.faultf(-1, key, "name %s: want it in lower case", quote(name))
		}
		addresses := c.Hosts[name]
		if (len(addresses) == 0 || len(addresses) > maxAddresses) && !c.skip(-1, key) {
			c.faultf(-1, key, "name %s has %d addresses: want 1 to %d", quote(name), len(addresses), maxAddresses)
		}
		for i, a := range addresses {
			if err := addressFault(a); err != nil {
				c.fault(-1, key, err)
			} else if slices.Contains(addresses[:i], a) {
				c.faultf(-1, key, "name %s has %v twice: leave one out", quote(name), a)
			}
		}
	}
}

func addressFault(a netip.Addr) error {
	if !a.IsValid() {
		return fmt.Errorf("an empty address: want one such as 192.0.2.10")
	}
	return peerFault(netip.PrefixFrom(a, a.BitLen()))
}

// rule judges one rule: its shape, and then, in a secure policy, what it opens.
func (c *checker) rule(i int, r Rule) {
	c.comment(i, r.Comment)
	if r.Direction != Out && r.Direction != In {
		c.faultf(i, "direction", "direction is %v: want \"out\" or \"in\"", r.Direction)
	}
	if r.Protocol < Any || r.Protocol > ICMP {
		c.faultf(i, "protocol", "protocol is %v: want \"tcp\", \"udp\", \"icmp\" or \"any\"", r.Protocol)
	}
	c.ports(i, r)
	c.peers(i, r)
	if !c.Secure || r.Deny {
		return
	}
	for _, s := range secureRules {
		broken := slices.ContainsFunc(s.needs, func(key string) bool { return c.skip(i, key) })
		if !broken && s.opens(r) {
			c.faultf(i, s.key, "%s", s.text)
		}
	}
}

func (c *checker) ports(i int, r Rule) {
	if len(r.Ports) > 0 && r.Protocol != TCP && r.Protocol != UDP && !c.skip(i, "protocol") {
		c.faultf(i, "ports", "ports with protocol %q, which has none: want \"tcp\" or \"udp\", or no ports", r.Protocol)
	}
	if len(r.Ports) > maxPorts {
		c.faultf(i, "ports", "%d ranges of ports: want at most %d", len(r.Ports), maxPorts)
		return
	}
	for j, p := range r.Ports {
		if p.Low == 0 || p.Low > p.High {
			c.faultf(i, "ports", "ports %v: want 1 to 65535, the lower first", p)
		}
		for _, q := range r.Ports[:j] {
			if p.Low <= q.High && q.Low <= p.High {
				c.faultf(i, "ports", "ports %v and %v share some: want each port once", q, p)
			}
		}
	}
}

func (c *checker) peers(i int, r Rule) {
	if r.Host && len(r.Peers)+len(r.Names) > 0 {
		c.faultf(i, "peers", "a rule about the host and other peers at once: want two")
	}
	if len(r.Peers) > maxPeers {
		c.faultf(i, "peers", "%d addresses and prefixes, those of names counted: want at most %d", len(r.Peers), maxPeers)
		return
	}
	for j, p := range r.Peers {
		if err := peerFault(p); err != nil {
			c.fault(i, "peers", err)
			continue
		}
		for _, q := range r.Peers[:j] {
			if p.Overlaps(q) {
				c.faultf(i, "peers", "%s and %s share addresses: want each once", show(q), show(p))
			}
		}
	}
	for _, name := range r.Names {
		addresses, ok := c.Hosts[name]
		if !ok && !c.skip(-1, "hosts."+name) {
			c.fault(i, "peers", unknownName(name))
		}
		for _, a := range addresses {
			if !covers(r.Peers, netip.PrefixFrom(a, a.BitLen())) {
				c.faultf(i, "peers", "%v of the name %s is not among the addresses: want all of them", a, quote(name))
			}
		}
	}
}

func unknownName(name string) error {
	return fmt.Errorf("name %s is not in [hosts]: add it with its addresses: names are not looked up, since what a resolver says tomorrow is not what was reviewed today", quote(name))
}

// widest is the shortest prefix that a secure policy may open. Shorter ones are whole continents of the net.
const widest = 8

// secureRules are what no allow rule of a secure policy may open.
var secureRules = []struct {
	key   string   // where the fault stands
	needs []string // keys that must have been read for this to be judged
	opens func(Rule) bool
	text  string
}{
	{"peers", []string{"peers"}, func(r Rule) bool { return !r.Host && len(r.Peers) == 0 },
		"allows \"anywhere\" in a secure policy: want the peers by name or address"},
	{"peers", nil, func(r Rule) bool {
		return slices.ContainsFunc(r.Peers, func(p netip.Prefix) bool { return p.Bits() < widest })
	}, "allows a prefix shorter than /8 in a secure policy: want the peers themselves"},
	{"protocol", []string{"protocol"}, func(r Rule) bool { return r.Protocol == Any },
		"allows every protocol in a secure policy, and DNS with them: want \"tcp\", \"udp\" or \"icmp\""},
	{"protocol", []string{"protocol"}, func(r Rule) bool { return r.Host && r.Protocol == ICMP },
		"allows icmp with the host in a secure policy: want tcp or udp, and the ports of the one service that is needed"},
	{"ports", []string{"protocol", "ports"}, func(r Rule) bool { return ported(r) && len(r.Ports) == 0 },
		"allows every port in a secure policy, that of DNS among them: want the ports that are needed"},
	{"ports", nil, func(r Rule) bool { return len(r.Ports) > 0 && anyHas(r.Ports, portDNS) },
		"allows port 53 (DNS) in a secure policy: a question for a name carries data out: want dns = \"static\" and the names in [hosts]"},
	{"ports", nil, func(r Rule) bool { return len(r.Ports) > 0 && anyHas(r.Ports, portDNSOverTLS) },
		"allows port 853 (DNS over TLS) in a secure policy: a question for a name carries data out: want dns = \"static\" and the names in [hosts]"},
	{"ports", nil, func(r Rule) bool {
		return len(r.Ports) > 0 && (anyHas(r.Ports, portDHCPServer) || anyHas(r.Ports, portDHCPClient))
	}, "allows port 67 or 68 (DHCP) in a secure policy: want dhcp = true, which opens the host's server alone"},
}

func ported(r Rule) bool { return r.Protocol == TCP || r.Protocol == UDP }
