package policy_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/firewall/policy"
)

// The small worlds of the properties: few enough peers and ports that rules and packets often meet.
var (
	somePeers = []string{"192.0.2.1", "192.0.2.0/24", "198.51.100.0/25", "198.51.100.7", "0.0.0.0/1", "10.0.0.0/8", "203.0.113.9"}
	someAddrs = []string{"192.0.2.1", "192.0.2.2", "198.51.100.7", "203.0.113.9", "10.1.2.3", "169.254.169.254", "224.0.0.1", "8.8.8.8"}
	somePorts = []uint16{1, 22, 53, 67, 68, 80, 443, 853, 8443}
)

var ruleGen = rapid.Custom(func(t *rapid.T) policy.Rule {
	r := policy.Rule{
		Line:      rapid.IntRange(1, 99).Draw(t, "line"),
		Deny:      rapid.Bool().Draw(t, "deny"),
		Direction: policy.Direction(rapid.IntRange(0, 1).Draw(t, "direction")),
		Protocol:  policy.Protocol(rapid.IntRange(0, 3).Draw(t, "protocol")),
		Host:      rapid.Bool().Draw(t, "host"),
	}
	if p := rapid.SampledFrom(append(slices.Clone(somePeers), "")).Draw(t, "peer"); p != "" && !r.Host {
		if !strings.Contains(p, "/") {
			p += "/32"
		}
		r.Peers = []netip.Prefix{netip.MustParsePrefix(p)}
	}
	if (r.Protocol == policy.TCP || r.Protocol == policy.UDP) && rapid.Bool().Draw(t, "ported") {
		low := rapid.SampledFrom(somePorts).Draw(t, "low")
		r.Ports = []policy.PortRange{{Low: low, High: rapid.SampledFrom([]uint16{low, 9000}).Draw(t, "high")}}
	}
	return r
})

var policyGen = rapid.Custom(func(t *rapid.T) policy.Policy {
	return policy.Policy{
		Name:   "p",
		Secure: rapid.Bool().Draw(t, "secure"),
		DHCP:   rapid.Bool().Draw(t, "dhcp"),
		DNS:    policy.DNS(rapid.IntRange(0, 2).Draw(t, "dns")),
		SSH:    rapid.Bool().Draw(t, "ssh"),
		Rules:  rapid.SliceOfN(ruleGen, 0, 4).Draw(t, "rules"),
	}
})

// allPackets are all packets of the small world.
func allPackets() []policy.Packet {
	var all []policy.Packet
	for _, direction := range []policy.Direction{policy.Out, policy.In} {
		for _, protocol := range []policy.Protocol{policy.Any, policy.TCP, policy.UDP, policy.ICMP} {
			ports := []uint16{0}
			if protocol == policy.TCP || protocol == policy.UDP {
				ports = somePorts
			}
			for _, port := range ports {
				pk := policy.Packet{Direction: direction, Protocol: protocol, Port: port}
				for _, a := range someAddrs {
					pk.Peer = netip.MustParseAddr(a)
					all = append(all, pk)
				}
				pk.Host, pk.Peer = true, netip.Addr{}
				all = append(all, pk)
			}
		}
	}
	return all
}

// TestDenyFirst: a deny rule at the head never lets more pass, and what it is about only by a key.
func TestDenyFirst(t *testing.T) {
	packets := allPackets()
	rapid.Check(t, func(t *rapid.T) {
		p, deny := policyGen.Draw(t, "policy"), ruleGen.Draw(t, "rule")
		deny.Deny = true
		stricter := p
		stricter.Rules = append([]policy.Rule{deny}, p.Rules...)
		keys := p
		keys.Rules = nil
		for _, pk := range packets {
			before, after := p.Explain(pk), stricter.Explain(pk)
			if after.Allowed && !before.Allowed {
				t.Fatalf("%v: %+v, and with a deny rule first %+v", pk, before, after)
			}
			if after.Allowed && deny.Matches(pk) && !keys.Explain(pk).Allowed {
				t.Fatalf("%v: denied by the first rule, and yet %+v", pk, after)
			}
		}
	})
}

// TestOrder: rules of one action may stand in any order, and those behind a rule that takes everything do not matter.
func TestOrder(t *testing.T) {
	packets := allPackets()
	rapid.Check(t, func(t *rapid.T) {
		p := policyGen.Draw(t, "policy")
		deny := rapid.Bool().Draw(t, "all deny")
		for i := range p.Rules {
			p.Rules[i].Deny = deny
		}
		permuted, cut := p, p
		permuted.Rules = rapid.Permutation(p.Rules).Draw(t, "permuted")
		wall := []policy.Rule{{Deny: true}, {Deny: true, Host: true}, {Deny: true, Direction: policy.In}, {Deny: true, Direction: policy.In, Host: true}}
		cut.Rules = append(wall, p.Rules...)
		keys := p
		keys.Rules = nil
		for _, pk := range packets {
			if a, b := p.Explain(pk), permuted.Explain(pk); a.Allowed != b.Allowed {
				t.Fatalf("%v: %+v, and in another order %+v", pk, a, b)
			}
			if a, b := keys.Explain(pk), cut.Explain(pk); a.Allowed != b.Allowed {
				t.Fatalf("%v: %+v, and behind a wall %+v", pk, a, b)
			}
		}
	})
}

// TestSecure: whatever passes as secure opens no resolver, no DHCP beyond its key, no ssh and nobody unlisted.
func TestSecure(t *testing.T) {
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		p := almostSecure(policyGen.Draw(t, "policy"))
		if p.Validate() == nil {
			seen++
			if text := leak(p); text != "" {
				t.Fatalf("%+v\n%s", p, text)
			}
		}
	})
	if seen == 0 {
		t.Error("no policy passed, so that nothing was seen")
	}
}

// almostSecure changes a policy so far that a good part of them is secure.
func almostSecure(p policy.Policy) policy.Policy {
	p.Secure, p.SSH, p.DNS = true, false, p.DNS%2
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Protocol == policy.Any || r.Host && r.Protocol == policy.ICMP {
			r.Protocol = policy.TCP
		}
		if r.Protocol != policy.ICMP && len(r.Ports) == 0 {
			r.Ports = []policy.PortRange{{Low: 443, High: 8443}}
		}
		if !r.Host && len(r.Peers) == 0 {
			r.Peers = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}
	}
	return p
}

// leak says what a policy lets pass that no secure one may.
func leak(p policy.Policy) string {
	for _, pk := range allPackets() {
		v := p.Explain(pk)
		if !v.Allowed {
			continue
		}
		name := pk.Port == 53 || pk.Port == 853
		switch {
		case name && !(p.DNS == policy.Static && pk.Host && pk.Direction == policy.Out && pk.Port == 53 && v.Line == 0):
			return fmt.Sprintf("%v is a question for a name: %+v", pk, v)
		case (pk.Port == 67 || pk.Port == 68) && !(p.DHCP && pk.Host && pk.Direction == policy.Out && pk.Port == 67 && pk.Protocol == policy.UDP):
			return fmt.Sprintf("%v is DHCP: %+v", pk, v)
		case pk.Protocol == policy.Any:
			return fmt.Sprintf("%v is any protocol: %+v", pk, v)
		case !pk.Host && !listed(p, pk.Peer):
			return fmt.Sprintf("%v is not listed: %+v", pk, v)
		}
	}
	return ""
}

func listed(p policy.Policy, a netip.Addr) bool {
	return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		return slices.ContainsFunc(r.Peers, func(q netip.Prefix) bool { return q.Contains(a) && q.Bits() >= 8 })
	})
}

// addFiles seeds a fuzz target.
func addFiles(f *testing.F, patterns ...string) {
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
}

// sound judges what a parser made of a text.
func sound(t *testing.T, text string, p policy.Policy, err error) {
	t.Helper()
	lines := strings.Count(text, "\n") + 1
	if err != nil {
		faults, ok := err.(policy.Faults)
		if !ok || len(faults) == 0 {
			t.Fatalf("%T %v", err, err)
		}
		for _, f := range faults {
			if f.Line < 0 || f.Line > lines || strings.ContainsFunc(f.Text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%+q", f)
			}
		}
		if d := cmp.Diff(policy.Policy{}, p, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			t.Errorf("with a fault, and yet %s", d)
		}
		return
	}
	if err := p.Validate(); err != nil {
		t.Fatalf("read, and then: %v", err)
	}
	for _, r := range p.Rules {
		if r.Line < 1 || r.Line > lines {
			t.Errorf("rule of line %d of %d", r.Line, lines)
		}
	}
	if p.Secure {
		if text := leak(p); text != "" {
			t.Error(text)
		}
	}
}

func FuzzParseTOML(f *testing.F) {
	addFiles(f, "testdata/toml/*.toml", "shipped/*.toml")
	f.Add(explained)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.ParseTOML("p.toml", []byte(text))
		sound(t, text, p, err)
	})
}

func FuzzParseFW(f *testing.F) {
	addFiles(f, "testdata/fw/*.fw")
	f.Add(sshForward + filter("-A FORWARD -s %IP% -m comment --comment \"a \\\" b\" -j ACCEPT"))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.ParseFW("p.fw", []byte(text))
		sound(t, text, p.Policy, err)
	})
}

func FuzzParsePacket(f *testing.F) {
	for _, text := range []string{"tcp to 192.0.2.1:443", "udp from 192.0.2.7:53", "icmp to host", "other to 10.0.0.1", "tcp to a:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pk, err := (policy.Policy{}).Packet(text)
		if err != nil {
			return
		}
		again, err := (policy.Policy{}).Packet(pk.String())
		if err != nil || again != pk {
			t.Errorf("%q is %+v, which reads as %+v, %v", text, pk, again, err)
		}
		if v := (policy.Policy{}).Explain(pk); v.Allowed {
			t.Errorf("%q passes a closed policy: %+v", text, v)
		}
	})
}
