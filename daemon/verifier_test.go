package daemon_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon"
)

// verified is what a scrape says of each capsule in secure mode.
func verified(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "capsule_policy_verified" {
			for _, m := range f.GetMetric() {
				seen[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
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
		if diff := cmp.Diff(want, verified(t, reg)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	tells("in secure mode", map[string]float64{"cap-" + id[:8]: 1})
	b.hold(id)
	tells("held", map[string]float64{"cap-" + id[:8]: 0})
	tells("held for longer", map[string]float64{"cap-" + id[:8]: 0})
	b.succeed(b.ResumeCapsule(t.Context(), root, id))
	tells("back", map[string]float64{"cap-" + id[:8]: 1})
	b.succeed(b.StopCapsule(t.Context(), alice, id))
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
