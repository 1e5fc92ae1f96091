package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestFoundIsKept kills the daemon at every call of an entry: what the steps before it found is in the record all the same,
// that the guest mounted nothing and how many connections were cut. Where the capsule may have been closed already and nobody
// wrote down how many there were, that is unknown, and not none.
func TestFoundIsKept(t *testing.T) {
	for f, when := range map[fault]string{dieBefore: "before", dieAfter: "after"} {
		calls := 0
		for n := 0; ; n++ {
			t.Run(fmt.Sprintf("%s/%d", when, n), func(t *testing.T) {
				b := newBench(t, nil)
				id := b.launched()
				b.idle()
				b.machine.mute = true
				struck := b.machine.at(n, f)
				op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
				if err != nil {
					t.Fatal(err)
				}
				b.until(func() bool {
					o, err := b.Operation(t.Context(), root, op.ID)
					return struck.Load() || err == nil && o.State != daemon.OperationRunning
				})
				if !struck.Load() {
					return
				}
				calls++
				now, err := b.Operation(t.Context(), root, op.ID)
				if err != nil {
					t.Fatal(err)
				}
				at := now.Step
				b.kill()
				b.machine.well()
				b.start()
				b.succeed(op, nil)
				if c := b.show(id); !strings.Contains(c.Cause, "did not mount") {
					t.Errorf("killed at %s, and the capsule says %q", at, c.Cause)
				}
				records, err := b.SwitchRecords(t.Context(), root, id)
				if err != nil {
					t.Fatal(err)
				}
				r := records[0]
				if !strings.Contains(r.Cause, "did not mount") {
					t.Errorf("killed at %s, and the record says %q", at, r.Cause)
				}
				if r.Cut != nil && *r.Cut != 2 || r.Cut == nil && at != "fence" && at != "" {
					t.Errorf("killed at %q, and the record says that other than 2 connections were cut: %s", at, r.Steps[0].Note)
				}
			})
			if calls <= n {
				break
			}
		}
		if calls == 0 {
			t.Error("no call was struck")
		}
	}
}

// TestCutUnknown: the connections could not be counted before they were cut.
func TestCutUnknown(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.idle()
	first := true
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, call string) fault {
		if call == "InspectFence" && first {
			first = false
			return errBefore
		}
		return none
	}
	b.machine.mu.Unlock()
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	records, err := b.SwitchRecords(t.Context(), root, id)
	if err != nil {
		t.Fatal(err)
	}
	if r := records[0]; r.Cut != nil || !strings.Contains(r.Steps[0].Note, "nobody knows") {
		t.Errorf("%v cut: %s", r.Cut, r.Steps[0].Note)
	}
}
