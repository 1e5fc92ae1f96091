package firewall

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/firewall/policy"
)

// linkOf is the state of a tap's link.
func linkOf(t fatal, c *Chains, tap string) Link {
	t.Helper()
	i, err := c.links.of(tap)
	if err != nil {
		t.Fatal(err)
	}
	return i.state
}

func wantLink(t fatal, c *Chains, tap string, want Link) {
	t.Helper()
	if got := linkOf(t, c, tap); got != want {
		t.Errorf("the link of %s is %s, want %s", tap, got, want)
	}
}

// rulesAlone takes the link of a closed tap up and its isolation away, and waits until its port passes frames on: what is
// judged now are the layers of rules.
func rulesAlone(t *testing.T, b Binding) {
	t.Helper()
	isolate(t, b, "off")
	run(t, t.Context(), "ip", "link", "set", b.Tap, "up")
	eventually(t, b.Tap+" forwards", func() bool {
		return strings.Contains(run(t, t.Context(), "bridge", "link", "show", "dev", b.Tap), "state forwarding")
	})
}

// isolate turns the isolation of a port on or off.
func isolate(t *testing.T, b Binding, to string) {
	t.Helper()
	run(t, t.Context(), "bridge", "link", "set", "dev", b.Tap, "isolated", to)
}

// eventually waits for what must come: a test that gets to its end has failed.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitSeconds * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// addTap makes an interface that is called like a tap, an isolated port of the bridge, and up, as libvirt makes it.
func addTap(t *testing.T, tap string) {
	t.Helper()
	if _, err := net.InterfaceByName("capsbr0"); err != nil {
		addBridge(t, "capsbr0")
	}
	run(t, t.Context(), "ip", "tuntap", "add", "dev", tap, "mode", "tap")
	t.Cleanup(func() { run(t, bare(t), "ip", "link", "del", tap) })
	run(t, t.Context(), "ip", "link", "set", tap, "master", "capsbr0")
	run(t, t.Context(), "bridge", "link", "set", "dev", tap, "isolated", "on")
	run(t, t.Context(), "ip", "link", "set", tap, "up")
}

func addBridge(t *testing.T, name string) {
	t.Helper()
	run(t, t.Context(), "ip", "link", "add", name, "type", "bridge", "forward_delay", "0")
	t.Cleanup(func() { run(t, bare(t), "ip", "link", "del", name) })
	run(t, t.Context(), "ip", "link", "set", name, "up")
}

// With every rule of the kernel gone nothing gets from or to a closed tap, nor one of nobody.
func TestLinkAlone(t *testing.T) {
	s := newSite(t)
	run(t, t.Context(), "ip", "-n", "world", "addr", "replace", "169.254.169.254/32", "dev", "lo")
	all := slices.Concat(layer2, layer3)
	empty := func() { // what is flooded meanwhile is more than a socket holds
		for _, w := range []*wire{s.bridge, s.wire1, s.wireStranger} {
			w.has("")
		}
	}
	for name, set := range map[string][]Binding{"closed": {s.one.closed(), s.two}, "nobody's": {s.two}} {
		apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
		s.ready(t)
		apply(t, t.Context(), s.chains, set)
		clean(t, t.Context())
		for _, p := range all {
			switch p.name { // passes neither end of the tap
			case "a stranger to the host", "a stranger as a capsule to the host", "a stranger as a capsule to the world", "the world as a capsule to the host":
				continue
			}
			run(t, t.Context(), "ip", "link", "set", "capsbr0", "type", "bridge", "fdb_flush")
			empty()
			if s.saw(p) {
				t.Errorf("%s: %s arrives", name, p.name)
			}
		}
		rulesAlone(t, s.one)
		for _, p := range all {
			s.ready(t)
			empty()
			if !s.saw(p) {
				t.Errorf("%s, link up: %s does not arrive: the probe proves nothing", name, p.name)
			}
		}
	}
	// And it passes frames again at once when something may pass.
	apply(t, t.Context(), s.chains, []Binding{s.one.closed(), s.two})
	if err := s.chains.Put(t.Context(), s.one); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, s.one.Tap)
	s.ready(t)
	for _, p := range all {
		if p.allowed && !s.saw(p) {
			t.Errorf("opened again: %s does not arrive", p.name)
		}
	}
}

// The link is up where something may pass, and is set by every call, whatever else it finds to do.
func TestLinkFollowsThePolicy(t *testing.T) {
	o := options("192.168.53.0/24")
	denies := []policy.Rule{{Deny: true, Direction: policy.Out}}
	up := map[string]Link{Closed: LinkDown, "nothing": LinkDown, "denies": LinkDown, "maintenance": LinkUp,
		"dhcp": LinkUp, "static": LinkUp, "forward": LinkUp, "ssh": LinkUp, "out": LinkUp, "in": LinkUp}
	o.Policies = []policy.Policy{
		maintenance, {Name: "nothing"}, {Name: "denies", Rules: denies}, {Name: "dhcp", DHCP: true}, {Name: "ssh", SSH: true},
		{Name: "static", DNS: policy.Static}, {Name: "forward", DNS: policy.Forward},
		{Name: "out", Rules: append(denies, policy.Rule{Direction: policy.Out})}, {Name: "in", Rules: []policy.Rule{{Direction: policy.In}}},
	}
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 3)
	b, missing := all[0], all[1]
	addTap(t, b.Tap)
	addTap(t, "cap-nobody")
	apply(t, t.Context(), c, []Binding{missing})
	wantLink(t, c, b.Tap, LinkDown)
	wantLink(t, c, "cap-nobody", LinkDown)
	for _, name := range []string{"maintenance", Closed, "out", "nothing", "in", "denies", "dhcp", Closed, "static", "forward", "nothing", "ssh"} {
		for other, set := range map[string]func() error{
			"put":   func() error { return c.Put(t.Context(), under(b, name)) },
			"apply": func() error { return c.Apply(t.Context(), []Binding{missing, under(b, name)}) },
		} {
			for _, before := range []string{"up", "down"} { // by somebody, between two calls that change no rule
				if err := set(); err != nil {
					t.Fatal(err)
				}
				run(t, t.Context(), "ip", "link", "set", b.Tap, before)
				if err := set(); err != nil {
					t.Fatal(err)
				}
				if got := linkOf(t, c, b.Tap); got != up[name] {
					t.Errorf("%s of policy %q after somebody took it %s: the link is %s, want %s", other, name, before, got, up[name])
				}
				wantVerified(t, t.Context(), c)
			}
		}
	}
	if err := c.Drop(t.Context(), b.Tap); err != nil {
		t.Fatal(err)
	}
	wantLink(t, c, b.Tap, LinkDown)
	run(t, t.Context(), "ip", "link", "set", b.Tap, "up")
	if err := c.Drop(t.Context(), b.Tap); err != nil { // of nobody
		t.Fatal(err)
	}
	wantLink(t, c, b.Tap, LinkDown)
	if len(c.links.shut) > 1 { // that of missing
		t.Errorf("taps that went are remembered: %v", c.links.shut)
	}
}

// A policy that says something else takes the links of its bindings with it, and those of no others.
func TestLinkFollowsPolicies(t *testing.T) {
	o := guarded("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 2)
	all[0].Policy = narrow.Name
	for _, b := range all {
		addTap(t, b.Tap)
	}
	apply(t, t.Context(), c, all)
	for range 2 {
		wantLink(t, c, all[0].Tap, LinkUp)
		if err := c.SetPolicies(t.Context(), []policy.Policy{maintenance, {Name: narrow.Name}}); err != nil {
			t.Fatal(err)
		}
		wantLink(t, c, all[0].Tap, LinkDown)
		wantLink(t, c, all[1].Tap, LinkUp)
		if err := c.SetPolicies(t.Context(), o.Policies); err != nil {
			t.Fatal(err)
		}
	}
}

// Down before the rules, up after them: where the rules cannot be changed a tap that is to be closed is down, and the
// error says so, and one that is to be opened stays down.
func TestLinkBeforeAndAfterRules(t *testing.T) {
	o := options("192.168.53.0/24")
	for _, program := range []string{"iptables-restore", "nft", "iptables-save"} {
		t.Run(program, func(t *testing.T) {
			c := fresh(t, o)
			t.Cleanup(c.Close)
			all := bindings(o, 3)
			for _, b := range all {
				addTap(t, b.Tap)
			}
			start := []Binding{all[0], all[1].closed(), all[2]}
			mend := func() {}
			again := func() {
				t.Helper()
				mend()
				apply(t, t.Context(), c, start)
				wantLink(t, c, all[0].Tap, LinkUp)
				run(t, t.Context(), "iptables", "-F", "INPUT") // so that every change is a whole one
				if program == "nft" {
					run(t, t.Context(), "nft", "delete", "table", "bridge", "capsuled")
				}
				mend = breakProgram(t, program)
			}
			again()
			err := c.Put(t.Context(), all[0].closed())
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "the link of "+all[0].Tap+" is down all the same") {
				t.Errorf("put closed: %v", err)
			}
			wantLink(t, c, all[0].Tap, LinkDown)
			again()
			if err := c.Put(t.Context(), all[1]); !errors.Is(err, ErrUnavailable) {
				t.Errorf("put open: %v", err)
			}
			wantLink(t, c, all[1].Tap, LinkDown)
			again()
			moved := all[2]
			moved.IP = bindings(o, 9)[8].IP
			if err := c.Put(t.Context(), moved); !errors.Is(err, ErrUnavailable) {
				t.Errorf("put elsewhere: %v", err)
			}
			wantLink(t, c, all[2].Tap, LinkDown) // closed, whatever its rules are
			again()
			if err := c.Drop(t.Context(), all[0].Tap); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "is down all the same") {
				t.Errorf("drop: %v", err)
			}
			wantLink(t, c, all[0].Tap, LinkDown)
			again()
			if err := c.Apply(t.Context(), []Binding{all[0].closed(), all[1], all[2]}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("apply: %v", err)
			}
			wantLink(t, c, all[0].Tap, LinkDown)
			wantLink(t, c, all[1].Tap, LinkDown)
			wantLink(t, c, all[2].Tap, LinkUp) // whose binding stays
			mend()
			apply(t, t.Context(), c, start)
		})
	}
}

// Where there is no tap, the error claims nothing of its link.
func TestErrorOfAMissingTap(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 1)
	apply(t, t.Context(), c, all)
	run(t, t.Context(), "iptables", "-F", "INPUT")
	defer breakProgram(t, "iptables-restore")()
	if err := c.Put(t.Context(), all[0].closed()); err == nil || !strings.Contains(err.Error(), "there is no link") {
		t.Errorf("got %v", err)
	}
}

// Nothing is done to an interface that no tap is called like, and an invalid call changes no link.
func TestLinksOfOthers(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 2)
	addTap(t, "plain7")
	addTap(t, all[0].Tap)
	apply(t, t.Context(), c, all[:1])
	if err := c.Drop(t.Context(), "plain7"); err != nil {
		t.Fatal(err)
	}
	thief := all[1].closed()
	thief.Tap, thief.IP = all[0].Tap, o.Subnet.Addr()
	for _, b := range []Binding{thief, under(all[0], "unheard-of")} {
		if err := c.Put(t.Context(), b); !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v", err)
		}
	}
	wantLink(t, c, "plain7", LinkUp)
	wantLink(t, c, all[0].Tap, LinkUp)
}

// A link that is not as it should be is a difference, in the evidence of its tap too, and Apply mends it.
func TestLinkDrift(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 2)
	set := []Binding{all[0], all[1].closed()}
	for _, tap := range []string{all[0].Tap, all[1].Tap, "cap-nobody"} {
		addTap(t, tap)
	}
	apply(t, t.Context(), c, set)
	before := kernel(t, t.Context())
	for _, d := range []struct {
		tap, to, words string
		right          Link
	}{
		{all[0].Tap, "down", "link down, should be up", LinkUp},
		{all[1].Tap, "up", "link up, should be down: nothing may pass", LinkDown},
		{"cap-nobody", "up", "link up, should be down: the tap belongs to nobody", LinkDown},
	} {
		was := inspect(t, c, d.tap)
		if len(was.Differences) > 0 || was.Link != d.right || was.LinkDifference != "" {
			t.Errorf("%s before: %+v", d.tap, was.Differences)
		}
		run(t, t.Context(), "ip", "link", "set", d.tap, d.to)
		wantNoticed(t, t.Context(), c, d.tap+": "+d.words)
		now := inspect(t, c, d.tap)
		if now.Link == was.Link || now.Hash == was.Hash || !slices.Equal(now.Differences, []string{d.tap + ": " + d.words}) || now.LinkDifference != now.Differences[0] {
			t.Errorf("evidence: %s, %q, %v", now.Link, now.LinkDifference, now.Differences)
		}
		for _, other := range []string{all[0].Tap, all[1].Tap} {
			if e := inspect(t, c, other); other != d.tap && len(e.Differences) > 0 {
				t.Errorf("of %s: %v", other, e.Differences)
			}
		}
		apply(t, t.Context(), c, set)
		wantLink(t, c, d.tap, d.right)
	}
	if got := kernel(t, t.Context()); got != before {
		t.Errorf("rules changed:\n%s", got)
	}
}

// The kernel tells when a tap's link changes, and of no other's; a tap that comes up and has to be down is taken down,
// though nobody looks and iptables does not work.
func TestLinkChangesAreTold(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 2)
	addTap(t, all[0].Tap)
	addTap(t, "plain7")
	apply(t, t.Context(), c, []Binding{all[0], all[1].closed()})
	ctx, cancel := context.WithCancel(t.Context())
	changes := c.Changes(ctx)
	run(t, ctx, "ip", "link", "set", all[0].Tap, "down")
	told(t, changes)
	run(t, ctx, "ip", "link", "set", "plain7", "down")
	run(t, ctx, "ip", "link", "set", "plain7", "up")
	f, err := openLinkChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run(t, ctx, "ip", "link", "set", "plain7", "down")
	buf := make([]byte, 1<<16)
	if message, ok := read(f, buf); !ok || len(message) == 0 || c.ofTap(ctx, message) {
		t.Error("a link of others matters, or is not told of at all")
	}
	defer breakProgram(t, "iptables-restore")()
	for _, tap := range []string{all[1].Tap, "cap-nobody"} {
		addTap(t, tap) // as libvirt does
		eventually(t, tap+" is down", func() bool { return linkOf(t, c, tap) == LinkDown })
		told(t, changes)
	}
	wantLink(t, c, all[0].Tap, LinkDown) // what has to be up is for Apply, behind the rules
	cancel()
	for range changes { // until it is closed
	}
}

// Before the first Apply nobody knows what has to be down: a daemon that starts disturbs nobody.
func TestNothingIsGuardedBeforeApply(t *testing.T) {
	c := fresh(t, options("192.168.53.0/24"))
	addTap(t, "cap-running")
	c.guardLink(t.Context(), linkInfo{name: "cap-running", state: LinkUp})
	if err := c.Drop(t.Context(), "cap-running"); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	wantLink(t, c, "cap-running", LinkUp)
}
