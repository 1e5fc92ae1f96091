package firewall

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// A port that is not isolated is a difference, in the evidence too, whether its link is up or down, and Apply mends it,
// also where nothing else is to be done.
func TestIsolationDrift(t *testing.T) {
	s := newSite(t)
	set := []Binding{s.one.closed(), s.two}
	apply(t, t.Context(), s.chains, set)
	for _, b := range set {
		was := inspect(t, s.chains, b.Tap)
		if len(was.Differences) > 0 || was.Port != IsolatedPort || was.PortDifference != "" {
			t.Errorf("%s before: %s, %v", b.Tap, was.Port, was.Differences)
		}
		isolate(t, b, "off")
		words := b.Tap + ": port not isolated, should be"
		wantNoticed(t, t.Context(), s.chains, words)
		now := inspect(t, s.chains, b.Tap)
		if now.Port != OpenPort || now.PortDifference != words || !slices.Equal(now.Differences, []string{words}) || now.Hash == was.Hash {
			t.Errorf("evidence of %s: %s, %q", b.Tap, now.Port, now.Differences)
		}
		apply(t, t.Context(), s.chains, set)
		if port := inspect(t, s.chains, b.Tap).Port; port != IsolatedPort {
			t.Errorf("%s after Apply: %s", b.Tap, port)
		}
	}
	isolate(t, s.two, "off")
	if err := s.chains.Put(t.Context(), s.two); err != nil {
		t.Fatal(err)
	}
	wantVerified(t, t.Context(), s.chains)
}

// With every rule of the kernel gone, isolation alone keeps capsules apart that have their links up.
func TestIsolationAlone(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	clean(t, t.Context())
	for _, state := range []string{"on", "off"} {
		isolate(t, s.one, state)
		for _, p := range layer2 {
			if !strings.HasSuffix(p.name, "to another capsule") {
				continue
			}
			s.ready(t)
			if got := s.saw(p); got != (state == "off") {
				t.Errorf("isolated %s: %s arrives: %t", state, p.name, got)
			}
		}
	}
}

// A tap on another bridge, or on none, is down, whatever its policy; its evidence says why, and nobody claims to have
// mended it. Back on the bridge it is isolated before it is up.
func TestOffTheBridge(t *testing.T) {
	s := newSite(t)
	addBridge(t, "other0")
	set := []Binding{s.one.closed(), s.two}
	apply(t, t.Context(), s.chains, set)
	for _, b := range set {
		for _, away := range []struct {
			to    []string
			port  Port
			words string
		}{
			{[]string{"master", "other0"}, OtherPort, "a port of another bridge, should be one of capsbr0"},
			{[]string{"nomaster"}, NoPort, "on no bridge, should be on capsbr0"},
		} {
			run(t, t.Context(), slices.Concat([]string{"ip", "link", "set", b.Tap}, away.to)...)
			if b.Policy != Closed {
				wantNoticed(t, t.Context(), s.chains, b.Tap+": link up, should be down: it is not on the bridge")
			}
			for _, call := range []func() error{
				func() error { return s.chains.Apply(t.Context(), set) },
				func() error { return s.chains.Put(t.Context(), b) },
			} {
				if err := call(); err != nil {
					t.Fatal(err)
				}
				wantLink(t, s.chains, b.Tap, LinkDown)
				wantVerified(t, t.Context(), s.chains)
				words := b.Tap + ": " + away.words
				if e := inspect(t, s.chains, b.Tap); e.Port != away.port || e.PortDifference != words || !slices.Equal(e.Differences, []string{words}) {
					t.Errorf("evidence: %s, %q, want %q", e.Port, e.Differences, words)
				}
				run(t, t.Context(), "ip", "link", "set", b.Tap, "up") // by somebody, for the next call
			}
			run(t, t.Context(), "ip", "link", "set", b.Tap, "master", "capsbr0")
			wantNoticed(t, t.Context(), s.chains, b.Tap+": port not isolated")
			apply(t, t.Context(), s.chains, set)
			if e := inspect(t, s.chains, b.Tap); e.Port != IsolatedPort || (e.Link == LinkUp) != (b.Policy != Closed) {
				t.Errorf("back on the bridge: %s, %s", e.Port, e.Link)
			}
		}
	}
}

// The kernel tells of a tap that leaves the bridge, which is down at once though iptables does not work, and of one that is
// isolated no more.
func TestPortChangesAreTold(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	ctx, cancel := context.WithCancel(t.Context())
	changes := s.chains.Changes(ctx)
	isolate(t, s.one, "off")
	told(t, changes)
	wantNoticed(t, ctx, s.chains, s.one.Tap+": port not isolated")
	defer breakProgram(t, "iptables-restore")()
	run(t, ctx, "ip", "link", "set", s.one.Tap, "nomaster")
	eventually(t, "the link is down", func() bool { return linkOf(t, s.chains, s.one.Tap) == LinkDown })
	told(t, changes)
	wantLink(t, s.chains, s.two.Tap, LinkUp)
	cancel()
	for range changes { // until it is closed
	}
}

// A tap that libvirt is about to put on the bridge is no difference: it is down until then. Of one of nobody, as that of a
// capsule which is held, the evidence says where it is.
func TestTapInTheMaking(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	b := bindings(o, 1)[0]
	addBridge(t, "capsbr0")
	addBridge(t, "other0")
	apply(t, t.Context(), c, []Binding{b})
	for _, tap := range []string{b.Tap, "cap-nobody"} {
		run(t, t.Context(), "ip", "tuntap", "add", "dev", tap, "mode", "tap")
		t.Cleanup(func() { run(t, bare(t), "ip", "link", "del", tap) })
	}
	wantVerified(t, t.Context(), c)
	run(t, t.Context(), "ip", "link", "set", "cap-nobody", "master", "other0")
	run(t, t.Context(), "ip", "link", "set", b.Tap, "master", "capsbr0")
	isolated := make(chan error, 1)
	go func() { // libvirt, a moment later
		i, err := c.links.of(b.Tap)
		isolated <- errors.Join(err, c.links.isolate(i), c.links.set(i, LinkUp))
	}()
	wantVerified(t, t.Context(), c)
	if err := <-isolated; err != nil {
		t.Fatal(err)
	}
	if e := inspect(t, c, "cap-nobody"); e.PortDifference != "cap-nobody: a port of another bridge, should be one of capsbr0" {
		t.Errorf("of nobody: %v", e.Differences)
	}
}
