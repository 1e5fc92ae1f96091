package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestFlushDuringSwitch: rules that somebody takes away just before any look of a switch at them are put back, and the
// switch goes on.
func TestFlushDuringSwitch(t *testing.T) {
	for _, mode := range []daemon.Mode{daemon.Secure, daemon.Maintenance} {
		for look := 1; ; look++ {
			b := newBench(t, nil)
			id := b.create(alice, b.image())
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			if mode == daemon.Maintenance {
				b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
			}
			looks := 0
			b.machine.mu.Lock()
			b.machine.fault = func(_ int, call string) fault {
				if call == "InspectFence" {
					if looks++; looks == look {
						b.machine.flushed["cap-"+id[:8]] = true
					}
				}
				return none
			}
			b.machine.mu.Unlock()
			op := b.wait(b.SwitchCapsule(t.Context(), alice, id, mode, false))
			if op.State != daemon.OperationSucceeded {
				t.Errorf("to %s, flushed before look %d: step %s: %s", mode, look, op.Step, op.Cause)
			}
			b.settled()
			b.machine.mu.Lock()
			over := looks < look
			b.machine.mu.Unlock()
			if over {
				break
			}
		}
	}
}

// TestSettingsAreMended: what differs in the firewall may be a setting of the kernel, which the rules do not bring back.
func TestSettingsAreMended(t *testing.T) {
	b, w := watch(t)
	b.secured()
	w.drift.Store(true)
	guards := w.guards.Load()
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.drift.Load() || w.guards.Load() == guards {
		t.Errorf("still different %t; the settings were looked at %d times, as before", w.drift.Load(), guards)
	}
}
