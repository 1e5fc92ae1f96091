package daemon_test

import (
	"slices"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestFenceIsReadBack: rules that are not in the kernel when they are read back let no data near.
func TestFenceIsReadBack(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, call string) fault {
		if call == "InspectFence" {
			b.machine.flushed["cap-"+id[:8]] = true
		}
		return none
	}
	b.machine.mu.Unlock()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	if op.State != daemon.OperationFailed || op.Step != "fence" {
		t.Errorf("%s at step %s: %s", op.State, op.Step, op.Cause)
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if b.machine.count("Checkpoint")+b.machine.count("Attach") > 0 {
		t.Error("it went on without its fence")
	}
}

// TestOrderOfEntering: closed, then cut off, then frozen, then given its data, then asked to mount it.
func TestOrderOfEntering(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	first := len(b.machine.calls)
	b.machine.mu.Unlock()
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	calls := b.machine.calls[first:]
	last := -1
	for _, call := range []string{"Put", "Cut", "Disconnect", "Checkpoint", "Attach", "GuestMount"} {
		i := slices.Index(calls, call)
		if i <= last {
			t.Errorf("%s is call %d, and what comes before it call %d: %v", call, i, last, calls)
		}
		last = i
	}
}

// TestReopenLooks: an entry that fails before anything was attached opens the capsule again only if it is as it was.
func TestReopenLooks(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, call string) fault {
		if call != "Disconnect" {
			return none
		}
		b.machine.alien[domain.ID(id)] = "a host device"
		return errBefore
	}
	b.machine.mu.Unlock()
	b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.machine.mu.Lock()
	p, bound := b.machine.bindings["cap-"+id[:8]]
	b.machine.mu.Unlock()
	if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Maintenance || bound && p.Policy != "" {
		t.Errorf("%s in %s, under policy %q", c.State, c.Mode, p.Policy)
	}
}
