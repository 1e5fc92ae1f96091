package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/golden"
)

func inspect(t *testing.T, c *Chains, tap string) Evidence {
	t.Helper()
	e, err := c.Inspect(t.Context(), tap)
	if err != nil {
		t.Fatal(err)
	}
	e.Differences = withoutSettings(e.Differences)
	return e
}

// narrow is a policy such as is in force beside protected data.
var narrow = policy.Policy{
	Name: "secure", Secure: true, DNS: policy.Static,
	Hosts: addressesOf("data.example.org", "198.51.100.2"),
	Rules: []policy.Rule{
		{Line: 3, Deny: true, Direction: policy.Out, Protocol: policy.TCP, Peers: prefixes("198.51.100.2/32"), Ports: ports(8080, 8080)},
		{Line: 9, Direction: policy.Out, Protocol: policy.TCP, Peers: prefixes("198.51.100.0/24"), Ports: ports(443, 443, 8000, 8100)},
		{Line: 12, Direction: policy.Out, Protocol: policy.UDP, Peers: prefixes("198.51.100.2/32"), Ports: ports(7001, 7001)},
		{Line: 15, Direction: policy.In, Protocol: policy.TCP, Peers: prefixes("198.51.100.2/32"), Ports: ports(9000, 9000)},
		{Line: 18, Direction: policy.Out, Protocol: policy.TCP, Host: true, Ports: ports(8081, 8081)},
	},
}

// guarded are options with the policies of the tests.
func guarded(subnet string) Options {
	o := options(subnet)
	o.Policies = []policy.Policy{maintenance, narrow, {Name: "secure-full", Secure: true}}
	return o
}

func under(b Binding, policy string) Binding {
	b.Policy = policy
	return b
}

func TestEvidence(t *testing.T) {
	o := guarded("192.168.48.0/20")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 30)
	all[0].Policy = narrow.Name
	apply(t, t.Context(), c, all)
	all[1].SSHPort, all[2].SSHPort = 17000, 18000 // far from all others
	apply(t, t.Context(), c, all)
	for _, tap := range []string{all[0].Tap, all[1].Tap, all[4].Tap, "cap-nobody"} {
		e := inspect(t, c, tap)
		if len(e.Differences) > 0 {
			t.Errorf("%s: %s", tap, strings.Join(e.Differences, "\n"))
		}
		golden.Check(t, "evidence-"+tap, strings.Join(e.Kernel, "\n")+"\n")
	}
	secure, neighbour := inspect(t, c, all[0].Tap), inspect(t, c, all[1].Tap)
	if secure.Policy != "secure" || neighbour.Policy != "maintenance" || secure.Hash == neighbour.Hash {
		t.Errorf("policies %q and %q, hashes %s and %s", secure.Policy, neighbour.Policy, secure.Hash, neighbour.Hash)
	}
	if !slices.ContainsFunc(neighbour.Kernel, func(l string) bool { return strings.Contains(l, "-j DNAT") }) {
		t.Error("the forwarded port is not seen")
	}
	// Neighbours that come and go are not seen in it, in the one reading of all either.
	if err := c.Drop(t.Context(), all[2].Tap); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(all[5:20:20], all[3]) {
		if err := c.Put(t.Context(), b.closed()); err != nil {
			t.Fatal(err)
		}
	}
	every, err := c.InspectAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(secure, every[all[0].Tap]); diff != "" || len(every) != 29 {
		t.Errorf("%d taps; after the neighbours changed: %s", len(every), diff)
	}
}

// Whatever somebody changes on the way of a tap's packets shows in its evidence, and in its hash.
func TestEvidenceShowsDrift(t *testing.T) {
	for name, spoil := range map[string]func(b Binding) []string{
		"own chain": func(b Binding) []string {
			return []string{"iptables", "-I", "CAPSULED-" + b.Tap + "-o", "-j", "ACCEPT"}
		},
		"policy's":      func(b Binding) []string { return []string{"iptables", "-A", "CAPSULED-A.secure-i", "-j", "ACCEPT"} },
		"way":           func(b Binding) []string { return []string{"iptables", "-F", "CAPSULED-O.C0A83500.8"} },
		"way, diverted": func(b Binding) []string { return []string{"iptables", "-I", "CAPSULED-O.C0A83500.8", "-j", "ACCEPT"} },
		"base":          func(b Binding) []string { return []string{"iptables", "-I", "CAPSULED-OUT", "-j", "ACCEPT"} },
		"jump":          func(b Binding) []string { return []string{"iptables", "-D", "FORWARD", "-j", "CAPSULED-FORWARD"} },
		"jump, second":  func(b Binding) []string { return []string{"iptables", "-I", "FORWARD", "-j", "ACCEPT"} },
		"raw":           func(b Binding) []string { return []string{"iptables", "-t", "raw", "-F"} },
		"nat":           func(b Binding) []string { return []string{"iptables", "-t", "nat", "-F"} },
		"IPv6":          func(b Binding) []string { return []string{"ip6tables", "-F"} },
		"IPv6 raw":      func(b Binding) []string { return []string{"ip6tables", "-t", "raw", "-F"} },
		"everything":    func(b Binding) []string { return []string{"nft", "flush", "ruleset"} },
		"bridge":        func(b Binding) []string { return []string{"nft", "delete", "table", "bridge", "capsuled"} },
		"bridge hook":   func(b Binding) []string { return []string{"nft", "flush", "chain", "bridge", "capsuled", "output"} },
		"bridge policy": func(b Binding) []string {
			return []string{"nft", "flush", "chain", "bridge", "capsuled", "p_secure_to"}
		},
		"bridge part": func(b Binding) []string {
			return []string{"nft", "insert", "rule", "bridge", "capsuled", "refused_from", "accept"}
		},
		"bridge chain": func(b Binding) []string {
			return []string{"nft", "add", "chain", "bridge", "capsuled", "theirs", "{ type filter hook forward priority 5; }"}
		},
		"verdict": func(b Binding) []string {
			return []string{"nft", "delete", "element", "bridge", "capsuled", "to", `{ "` + b.Tap + `" : goto p_secure_to }`}
		},
		"address": func(b Binding) []string {
			return []string{"nft", "add", "element", "bridge", "capsuled", "addrs", `{ "` + b.Tap + `" . ` + b.MAC.String() + ` . 192.168.53.77 }`}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := guarded("192.168.53.0/24")
			c := fresh(t, o)
			t.Cleanup(c.Close)
			b := under(bindings(o, 1)[0], narrow.Name)
			apply(t, t.Context(), c, []Binding{b})
			before := inspect(t, c, b.Tap)
			run(t, t.Context(), spoil(b)...)
			after := inspect(t, c, b.Tap)
			if len(before.Differences) > 0 || len(after.Differences) == 0 || before.Hash == after.Hash {
				t.Errorf("before: %v, after: %v, hashes %.8s and %.8s", before.Differences, after.Differences, before.Hash, after.Hash)
			}
		})
	}
}

// A tap without a binding that something is left of is no shut one.
func TestEvidenceOfNobody(t *testing.T) {
	o := guarded("192.168.53.0/24")
	c := fresh(t, o)
	apply(t, t.Context(), c, nil)
	e := inspect(t, c, "cap-gone")
	if len(e.Differences) > 0 || e.Policy != Closed || !slices.Contains(e.Kernel, `bridge chain prerouting: iifname "cap-*" drop`) {
		t.Errorf("differences %v in\n%s", e.Differences, strings.Join(e.Kernel, "\n"))
	}
	run(t, t.Context(), "nft", "add", "element", "bridge", "capsuled", "from", `{ "cap-gone" : accept }`)
	if e = inspect(t, c, "cap-gone"); len(e.Differences) == 0 {
		t.Error("a verdict that is left is not seen")
	}
	if _, err := c.Inspect(t.Context(), "eth0"); err == nil {
		t.Error("evidence of what is no tap")
	}
}

// What is allowed and what is denied of each tap is counted, where it is denied.
func TestCounts(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
	s.ready(t)
	s.settle()
	before := inspect(t, s.chains, s.one.Tap)
	neighbour := inspect(t, s.chains, s.two.Tap)
	for range 3 {
		s.wire1.send(plain(s, worldAddr, 7001, "<allowed>"))
		s.wire1.send(plain(s, worldAddr, 9, "<denied by the bridge>"))
	}
	s.beyond.await("<allowed>")
	say(t, "", s.one.IP.String()+":7", "<denied by the IP layer>")
	s.settle()
	e := inspect(t, s.chains, s.one.Tap)
	if n := e.Allowed.minus(before.Allowed).Packets; n != 3 {
		t.Errorf("%d allowed, want 3", n)
	}
	if n := e.DeniedByBridge.minus(before.DeniedByBridge).Packets; n < 3 {
		t.Errorf("%d denied by the bridge layer, want 3 or more", n)
	}
	if ip, bridge := e.Denied.minus(before.Denied).Packets, e.DeniedByBridge.minus(before.DeniedByBridge).Packets; ip-bridge != 1 {
		t.Errorf("%d denied, %d of them by the bridge layer: want one by the IP layer", ip, bridge)
	}
	if e.Flows == 0 {
		t.Error("no connection is counted")
	}
	if other := inspect(t, s.chains, s.two.Tap); other.Allowed == neighbour.Allowed {
		t.Error("what the neighbour sent is not counted")
	} else if other.DeniedByBridge.Packets-neighbour.DeniedByBridge.Packets > e.DeniedByBridge.Packets {
		t.Errorf("its neighbour is charged: %v", other)
	}
	wantVerified(t, t.Context(), s.chains) // counters are no difference
}
