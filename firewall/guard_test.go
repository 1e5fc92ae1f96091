package firewall

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// guardedSite is a site whose settings are guarded.
func guardedSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	if err := s.chains.GuardBridge(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A setting that somebody changes is a difference, in the evidence of every tap too, and GuardBridge mends it.
func TestSettingsAreGuarded(t *testing.T) {
	s := guardedSite(t)
	for name, value := range map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv4/conf/capsbr0/rp_filter": "0", "net/ipv6/conf/capsbr0/disable_ipv6": "0",
	} {
		wantGuarded(t, s.chains)
		right, err := readSetting(name)
		if err != nil {
			t.Fatal(err)
		}
		sysctl(t, name, value)
		words := "sysctl: " + name + " is not " + right
		wantNoticed(t, t.Context(), s.chains, words)
		if e, err := s.chains.Inspect(t.Context(), s.one.Tap); err != nil || !strings.Contains(strings.Join(e.Differences, "\n"), words) {
			t.Errorf("evidence: %v, %v", e.Differences, err)
		}
		if err := s.chains.GuardBridge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, err := readSetting(name); err != nil || now != right {
			t.Errorf("%s is %q, %v; want %s", name, now, err, right)
		}
	}
	wantGuarded(t, s.chains)
}

// A daemon that came back and never got as far as GuardBridge looks at the settings all the same; one without a capsule
// looks at none.
func TestSettingsAreLookedAtUnguarded(t *testing.T) {
	s := guardedSite(t)
	c, err := New(s.opt)
	if err != nil {
		t.Fatal(err)
	}
	sysctl(t, "net/ipv4/conf/capsbr0/rp_filter", "0")
	apply(t, t.Context(), c, nil)
	wantGuarded(t, c)
	apply(t, t.Context(), c, []Binding{s.one, s.two})
	wantNoticed(t, t.Context(), c, "sysctl: net/ipv4/conf/capsbr0/rp_filter is not 1")
	if e, err := c.Inspect(t.Context(), s.one.Tap); err != nil || !slices.Contains(e.Differences, "sysctl: net/ipv4/conf/capsbr0/rp_filter is not 1") {
		t.Errorf("evidence: %v, %v", e.Differences, err)
	}
}

// wantGuarded is wantVerified with the settings.
func wantGuarded(t *testing.T, c *Chains) {
	t.Helper()
	if diffs, err := c.Verify(t.Context()); err != nil || len(diffs) > 0 {
		t.Errorf("the kernel differs: %q, %v", diffs, err)
	}
}

// A bridge that is gone is a difference and no error, so that whoever mends what differs mends the rest.
func TestBridgeGoneIsADifference(t *testing.T) {
	s := guardedSite(t)
	run(t, t.Context(), "ip", "link", "set", "capsbr0", "name", "capsbr9")
	back := func() { run(t, bare(t), "ip", "link", "set", "capsbr9", "name", "capsbr0") }
	wantNoticed(t, t.Context(), s.chains, "there is no bridge capsbr0")
	run(t, t.Context(), "iptables", "-F")
	wantNoticed(t, t.Context(), s.chains, "there is no bridge capsbr0", "FORWARD does not jump")
	if err := s.chains.Apply(t.Context(), []Binding{s.one, s.two}); err != nil {
		t.Error(err)
	}
	if diffs, err := s.chains.Verify(t.Context()); err != nil || len(diffs) != 1 {
		t.Errorf("after the rules were mended: %v, %v", diffs, err)
	}
	if err := s.chains.GuardBridge(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("guard of no bridge: %v", err)
	}
	back()
	if err := s.chains.GuardBridge(t.Context()); err != nil {
		t.Error(err)
	}
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two}) // the links, which went down with the bridge
	wantGuarded(t, s.chains)
}
