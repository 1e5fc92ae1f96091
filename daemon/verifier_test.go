package daemon_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon"
)

// scrape is what the metrics say under one name, by the values of the labels.
func scrape(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			seen[strings.Join(labels, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return seen
}

// TestHeldIsToldOf: that a capsule could not be proved safe is still to be seen by whoever asks minutes later.
func TestHeldIsToldOf(t *testing.T) {
	var reg *prometheus.Registry
	b := newBench(t, func(o *daemon.Options) { reg = o.Registerer.(*prometheus.Registry) })
	id := b.secured()
	tells := func(what string, want map[string]float64) {
		t.Helper()
		if err := b.VerifyAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, scrape(t, reg, "capsule_policy_verified")); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	tells("in secure mode", map[string]float64{"cap-" + id[:8]: 1})
	want := map[string]float64{"cap-" + id[:8] + " bridge": 4, "cap-" + id[:8] + " ipv4": 3}
	if diff := cmp.Diff(want, scrape(t, reg, "capsule_denied_packets_total")); diff != "" {
		t.Errorf("denied: %s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"rules": 0}, scrape(t, reg, "capsule_policy_drift_total")); diff != "" {
		t.Errorf("drift: %s", diff)
	}
	b.hold(id)
	tells("held", map[string]float64{"cap-" + id[:8]: 0})
	tells("held for longer", map[string]float64{"cap-" + id[:8]: 0})
	b.succeed(b.free(b.ResumeCapsule, root, id))
	tells("back", map[string]float64{"cap-" + id[:8]: 1})
	b.succeed(b.free(b.StopCapsule, alice, id))
	tells("stopped", map[string]float64{})
}

// TestFlushBeforeTheLook: rules that somebody takes away between the verifier's mending and its look are put back, and
// nobody is stopped for them.
func TestFlushBeforeTheLook(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	flushed := false
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, call string) fault {
		if call == "InspectFence" && !flushed {
			flushed, b.machine.flushed["cap-"+id[:8]] = true, true
		}
		return none
	}
	b.machine.mu.Unlock()
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.idle()
	if c := b.show(id); c.State != daemon.Running || !flushed {
		t.Errorf("flushed %t: %s, %s", flushed, c.State, c.Cause)
	}
	b.settled()
}

// meanwhile does something in the midst of each of the next n looks at the rules, but for those of what it does itself.
func (m *machine) meanwhile(n int, do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	doing := false
	m.fault = func(_ int, call string) fault {
		if call != "InspectFence" || doing || n == 0 {
			return none
		}
		doing, n = true, n-1
		m.mu.Unlock() // call holds it
		do()
		m.mu.Lock()
		doing = false
		return none
	}
}

// TestMovedWhileLookedAt: a switch that is as it should be, and begins and ends while somebody looks at the capsule, is no
// failed proof for who asks, and no alarm of the verifier's.
func TestMovedWhileLookedAt(t *testing.T) {
	var reg *prometheus.Registry
	b := newBench(t, func(o *daemon.Options) { reg = o.Registerer.(*prometheus.Registry) })
	id := b.secured()
	mode := daemon.Secure
	change := func() {
		mode = map[daemon.Mode]daemon.Mode{daemon.Secure: daemon.Maintenance, daemon.Maintenance: daemon.Secure}[mode]
		b.succeed(b.free(func(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
			return b.SwitchCapsule(ctx, c, id, mode, false)
		}, alice, id))
	}
	prove := func(moves int, proved, unknown bool) {
		t.Helper()
		b.machine.meanwhile(moves, change)
		p, err := b.Prove(t.Context(), alice, id)
		b.machine.well()
		if err != nil || p.Proved != proved || p.Unknown != unknown {
			t.Errorf("moved %d times: proved %t, unknown %t, %v", moves, p.Proved, p.Unknown, err)
		}
		for _, c := range p.Checks {
			if !c.OK && !c.Unknown {
				t.Errorf("moved %d times: %s %s: %s", moves, c.Promise, c.What, c.Found)
			}
		}
	}
	prove(1, true, false) // looked at again
	prove(2, false, true)
	prove(1, true, false)
	if mode != daemon.Secure {
		t.Fatalf("it is in %s", mode)
	}
	tells := func(what string, want map[string]float64) {
		t.Helper()
		err := b.VerifyAll(t.Context())
		b.machine.well()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, scrape(t, reg, "capsule_policy_verified")); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	proved := map[string]float64{"cap-" + id[:8]: 1}
	b.machine.meanwhile(1, change)
	tells("it left before it was ever looked at", map[string]float64{})
	change()
	tells("back", proved)
	b.machine.meanwhile(1, change)
	tells("it left meanwhile", proved)
	change()
	b.machine.meanwhile(1, func() { change(); change() })
	tells("it left and came back meanwhile", proved)
	b.settled()
}

// TestHangingLook: a look at which libvirt hangs uses up its time, and then there is still time for the hold.
func TestHangingLook(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	rounds := 0
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, call string) fault {
		if call != "Inspect" {
			return none
		}
		if rounds++; rounds == 3 {
			return dieBefore // until its context ends
		}
		return errBefore
	}
	b.machine.mu.Unlock()
	for range 3 {
		if err := b.VerifyAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.machine.well()
	b.idle()
	b.resumed(id)
}
