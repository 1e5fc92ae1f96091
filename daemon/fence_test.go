package daemon_test

import (
	"slices"
	"testing"

	"github.com/capsuled/capsuled/daemon"
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
