package firewall

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/golden"
	"github.com/capsuled/capsuled/internal/testhost"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func addressesOf(name string, list ...string) map[string][]netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return map[string][]netip.Addr{name: all}
}

// ports are ranges by their ends.
func ports(ends ...uint16) []policy.PortRange {
	var all []policy.PortRange
	for i := 0; i < len(ends); i += 2 {
		all = append(all, policy.PortRange{Low: ends[i], High: ends[i+1]})
	}
	return all
}

func TestPolicyGolden(t *testing.T) {
	o := guarded("192.168.53.0/24")
	o.Policies = append(o.Policies, policy.Policy{Name: "everything-of-everything", DHCP: true, DNS: policy.Forward, SSH: true, Rules: []policy.Rule{
		{Deny: true, Direction: policy.Out, Protocol: policy.Any, Peers: prefixes("198.51.100.0/24", "198.51.100.7/32", "10.0.0.0/8")},
		{Direction: policy.Out, Protocol: policy.TCP, Ports: ports(1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15, 17, 17, 19, 20, 22, 30, 40, 50, 60, 60, 62, 62, 64, 64, 65, 66)},
		{Direction: policy.Out, Protocol: policy.ICMP},
		{Direction: policy.Out, Protocol: policy.UDP, Ports: ports(0, 65535)},
		{Deny: true, Direction: policy.In, Protocol: policy.UDP, Peers: prefixes("192.0.2.1/32"), Ports: ports(5, 6)},
		{Direction: policy.In, Protocol: policy.Any, Peers: prefixes("192.0.2.0/24")},
		{Direction: policy.In, Protocol: policy.TCP, Ports: ports(80, 80)},
		{Direction: policy.In, Protocol: policy.ICMP, Host: true},
		{Direction: policy.Out, Protocol: policy.ICMP, Host: true},
	}})
	policies, err := o.load(o.Policies)
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range policies {
		var text strings.Builder
		for _, part := range []string{"-h", "-o", "-i"} {
			for _, rule := range l.filter[policyChain(name)+part] {
				fmt.Fprintf(&text, "-A %s%s %s\n", policyChain(name), part, rule)
			}
		}
		for _, c := range l.bridge {
			fmt.Fprintf(&text, "chain %s {\n\t%s\n}\n", c.name, strings.Join(c.lines, "\n\t"))
		}
		golden.Check(t, "policy-"+name, text.String())
	}
}

// anyPolicy draws a policy. Peers, ports and rules are few of many, so that they meet.
func anyPolicy(rt *rapid.T, name string) policy.Policy {
	p := policy.Policy{
		Name: name, DHCP: rapid.Bool().Draw(rt, "dhcp"), SSH: rapid.Bool().Draw(rt, "ssh"),
		DNS: policy.DNS(rapid.IntRange(0, 2).Draw(rt, "dns")),
	}
	for range rapid.IntRange(0, 6).Draw(rt, "rules") {
		r := policy.Rule{
			Deny: rapid.IntRange(0, 3).Draw(rt, "deny") == 0, Direction: policy.Direction(rapid.IntRange(0, 1).Draw(rt, "direction")),
			Protocol: policy.Protocol(rapid.IntRange(0, 3).Draw(rt, "protocol")), Host: rapid.IntRange(0, 3).Draw(rt, "host") == 0,
		}
		for range rapid.IntRange(0, 3).Draw(rt, "peers") {
			a := netip.AddrFrom4([4]byte{rapid.SampledFrom([]byte{10, 192, 203, 255}).Draw(rt, "a"), byte(rapid.IntRange(0, 255).Draw(rt, "b")), 2, rapid.Byte().Draw(rt, "d")})
			if !r.Host {
				r.Peers = append(r.Peers, netip.PrefixFrom(a, rapid.IntRange(1, 32).Draw(rt, "bits")).Masked())
			}
		}
		for range rapid.IntRange(0, 20).Draw(rt, "ports") {
			low := rapid.Uint16().Draw(rt, "low")
			high := low
			if rapid.Bool().Draw(rt, "range") {
				high = rapid.Uint16Range(low, 65535).Draw(rt, "high")
			}
			if r.Protocol == policy.TCP || r.Protocol == policy.UDP {
				r.Ports = append(r.Ports, policy.PortRange{Low: low, High: high})
			}
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// Whatever a policy says, the kernel takes it, and says it again in our words.
func TestAnyPolicyReadsBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		clean(rt, ctx)
		o := options("192.168.53.0/24")
		o.Policies = []policy.Policy{anyPolicy(rt, "a"), anyPolicy(rt, "a-name-of-twenty-4-bytes")}
		c, err := New(o)
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		all := bindings(o, 3)
		all[0].Policy, all[1].Policy, all[2].Policy = "a", Closed, "a-name-of-twenty-4-bytes"
		apply(rt, ctx, c, all)
	})
	clean(t, t.Context())
}

func TestInvalidPolicies(t *testing.T) {
	rule := func(r policy.Rule) func(*policy.Policy) {
		return func(p *policy.Policy) { p.Rules = append(p.Rules, r) }
	}
	var many policy.Rule
	for i := range 5000 {
		many.Peers = append(many.Peers, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
	}
	for name, spoil := range map[string]func(*policy.Policy){
		"no name":          func(p *policy.Policy) { p.Name = "" },
		"name with a line": func(p *policy.Policy) { p.Name = "a\n-F" },
		"name underscored": func(p *policy.Policy) { p.Name = "a_b" },
		"name long":        func(p *policy.Policy) { p.Name = "a123456789012345678901234" },
		"name twice":       func(p *policy.Policy) { p.Name = "maintenance" },
		"DNS":              func(p *policy.Policy) { p.DNS = 3 },
		"direction":        rule(policy.Rule{Direction: 2}),
		"protocol":         rule(policy.Rule{Protocol: 4}),
		"host and peers":   rule(policy.Rule{Host: true, Peers: prefixes("10.0.0.0/8")}),
		"ports of ICMP":    rule(policy.Rule{Protocol: policy.ICMP, Ports: ports(1, 1)}),
		"ports reversed":   rule(policy.Rule{Protocol: policy.TCP, Ports: ports(2, 1)}),
		"peer IPv6":        rule(policy.Rule{Peers: prefixes("fd00::/8")}),
		"peer everybody":   rule(policy.Rule{Peers: prefixes("0.0.0.0/0")}),
		"peer host bits":   rule(policy.Rule{Peers: prefixes("10.0.0.1/8")}),
		"peer zero":        rule(policy.Rule{Peers: []netip.Prefix{{}}}),
		"too many peers":   rule(many),
	} {
		t.Run(name, func(t *testing.T) {
			o := guarded("192.168.53.0/24")
			p := policy.Policy{Name: "other"}
			o.Policies = append(o.Policies, p)
			if _, err := New(o); err != nil {
				t.Fatal(err)
			}
			spoil(&p)
			o.Policies[len(o.Policies)-1] = p
			if _, err := New(o); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

func TestUnknownPolicyIsRefused(t *testing.T) {
	o := guarded("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 2)
	apply(t, t.Context(), c, all)
	before := kernel(t, t.Context())
	stranger := under(all[1], "unheard-of")
	for name, err := range map[string]error{
		"put":      c.Put(t.Context(), stranger),
		"apply":    c.Apply(t.Context(), []Binding{all[0], stranger}),
		"policies": c.SetPolicies(t.Context(), []policy.Policy{narrow}),
		"faulty":   c.SetPolicies(t.Context(), []policy.Policy{maintenance, {Name: "-"}}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
		if name == "policies" && !strings.Contains(err.Error(), all[0].Tap) {
			t.Errorf("%v does not name the tap %s", err, all[0].Tap)
		}
	}
	if diff := cmp.Diff(before, kernel(t, t.Context())); diff != "" {
		t.Error(diff)
	}
	wantVerified(t, t.Context(), c)
}

// Policies that are set end where policies that were there from the start end, in whatever order.
func TestSetPoliciesEndsAlike(t *testing.T) {
	o := guarded("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	changed := narrow
	changed.Rules = changed.Rules[:2]
	list := []policy.Policy{maintenance, changed, {Name: "new", SSH: true}}
	all := bindings(o, 6)
	all[0].Policy = narrow.Name
	apply(t, t.Context(), c, all)
	first := kernel(t, t.Context())
	for _, set := range [][]policy.Policy{list, list, o.Policies, list} {
		rand.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		if err := c.SetPolicies(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		wantVerified(t, t.Context(), c)
	}
	got := kernel(t, t.Context())
	if got == first {
		t.Fatal("nothing changed")
	}
	clean(t, t.Context())
	o.Policies = list
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, t.Context(), again, all)
	if diff := cmp.Diff(kernel(t, t.Context()), got); diff != "" {
		t.Errorf("-new +set:\n%s", diff)
	}
}

// A table that is there is edited: replaced by another it loses packets.
func TestPoliciesEditTheTable(t *testing.T) {
	o := guarded("192.168.53.0/24")
	all := []Binding{under(bindings(o, 1)[0], narrow.Name), bindings(o, 2)[1]}
	w := wants(o, all)
	blocks := o.wantedBlocks(w.policies)
	have := bridgeState{blocks: blocks, elements: o.compileBridge(w)}
	o.Policies = []policy.Policy{maintenance, {Name: narrow.Name, DHCP: true}, {Name: "new"}}
	next := wants(o, all)
	golden.Check(t, "edit.bridge", o.bridgeChange(have, o.compileBridge(next), next.policies))
}

// Bindings of a policy that changed lose their connections, also where a new process brings the change; those of
// others keep theirs.
func TestChangedPolicyCuts(t *testing.T) {
	harder := narrow
	harder.Rules = harder.Rules[:1]
	list := []policy.Policy{maintenance, harder}
	for name, change := range map[string]func(t *testing.T, s *site) error{
		"set": func(t *testing.T, s *site) error { return s.chains.SetPolicies(t.Context(), list) },
		"anew": func(t *testing.T, s *site) error {
			s.opt.Policies = list
			c, err := New(s.opt)
			if err != nil {
				return err
			}
			s.chains = c
			return c.Apply(t.Context(), []Binding{under(s.one, narrow.Name), s.two})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSiteOf(t, guarded("192.168.53.0/24"))
			apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
			greet(t, "world", "0.0.0.0:443", "world")
			wantGreeting(t, "one", testhost.WorldAddr+":443", "world "+testhost.HostAddr)
			wantGreeting(t, "two", testhost.WorldAddr+":443", "world "+testhost.HostAddr)
			others := flows(t, s, s.two)
			if flows(t, s, s.one) == 0 || others == 0 {
				t.Fatal("nothing to cut")
			}
			if err := change(t, s); err != nil {
				t.Fatal(err)
			}
			wantVerified(t, t.Context(), s.chains)
			if n := flows(t, s, s.one); n != 0 {
				t.Errorf("%d entries are left", n)
			}
			if n := flows(t, s, s.two); n < others {
				t.Errorf("%d of another's %d entries are left", n, others)
			}
		})
	}
}

// When a layer refuses the new policies, what was to change is closed, and the next Apply opens it under the old ones.
func TestRefusedPoliciesClose(t *testing.T) {
	o := guarded("192.168.53.0/24")
	for _, program := range []string{"iptables-restore", "nft", "iptables-save"} {
		t.Run(program, func(t *testing.T) {
			c := fresh(t, o)
			t.Cleanup(c.Close)
			all := bindings(o, 2)
			all[0].Policy = narrow.Name
			apply(t, t.Context(), c, all)
			addTap(t, all[0].Tap)
			addTap(t, all[1].Tap)
			before := kernel(t, t.Context())
			looser := narrow
			looser.Rules = []policy.Rule{{Direction: policy.Out}}
			mend := breakProgram(t, program)
			if err := c.SetPolicies(t.Context(), []policy.Policy{maintenance, looser}); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("got %v, want ErrUnavailable", err)
			}
			mend()
			if got := c.want.bindings[all[0].Tap].Policy; got != Closed {
				t.Errorf("the binding should be %q", got)
			}
			if got := c.want.bindings[all[1].Tap].Policy; got != "maintenance" {
				t.Errorf("its neighbour should be %q", got)
			}
			wantLink(t, c, all[0].Tap, LinkDown)
			wantLink(t, c, all[1].Tap, LinkUp)
			// What was refused is not put in force behind the back of who was told so.
			apply(t, t.Context(), c, all)
			if diff := cmp.Diff(before, kernel(t, t.Context())); diff != "" {
				t.Errorf("the next Apply (-before +after):\n%s", diff)
			}
			wantLink(t, c, all[0].Tap, LinkUp)
			if got := c.seen.Load().policies[narrow.Name].Rules; len(got) != len(narrow.Rules) {
				t.Errorf("packets are answered by a policy of %d rules", len(got))
			}
			if err := c.SetPolicies(t.Context(), []policy.Policy{maintenance, looser}); err != nil {
				t.Fatal(err)
			}
			wantVerified(t, t.Context(), c)
		})
	}
}

func TestCut(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	s.ready(t)
	s.settle()
	s.wire1.send(plain(s, worldAddr, 7001, "<one>"))
	s.beyond.await("<one>")
	others := flows(t, s, s.two)
	if n, err := s.chains.Cut(t.Context(), s.one.Tap); err != nil || n != 1 {
		t.Errorf("cut %d, %v; want 1", n, err)
	}
	if n := flows(t, s, s.one); n != 0 || flows(t, s, s.two) != others || others == 0 {
		t.Errorf("%d entries are left, and %d of another's %d", n, flows(t, s, s.two), others)
	}
	if _, err := s.chains.Cut(t.Context(), "cap-x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("of nobody: %v", err)
	}
}
