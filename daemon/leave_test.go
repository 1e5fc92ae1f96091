package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestFailedLeave: a capsule whose way out fails is closed and does not run, and goes back when it is asked again.
func TestFailedLeave(t *testing.T) {
	for _, call := range []string{"Restore", "DropOverlay", "DropSerialLog", "DropLog"} {
		t.Run(call, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.secured()
			b.machine.faultAt(call)
			op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
			if op.State != daemon.OperationFailed {
				t.Fatal(op.State)
			}
			b.machine.well()
			if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Secure || c.Observed == "running" {
				t.Fatalf("%s in %s, %s", c.State, c.Mode, c.Observed)
			}
			b.resumed(id)
			if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance {
				t.Errorf("%s in %s", c.State, c.Mode)
			}
		})
	}
}

// TestLostCleanPoint: when there is nothing to go back to, the capsule is stopped and starts from its disk.
func TestLostCleanPoint(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.mu.Lock()
	b.machine.point(id).ram = nil
	b.machine.mu.Unlock()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	if op.State != daemon.OperationFailed || !strings.Contains(op.Cause, "stop the capsule") {
		t.Fatalf("%s: %s", op.State, op.Cause)
	}
	b.succeed(b.free(b.StopCapsule, alice, id))
	b.settled()
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.settled()
}

// TestDiskOfTheCleanPointChanged: memory is not restored over a disk that was written to since it was saved. A stop gives
// the machine its disk.
func TestDiskOfTheCleanPointChanged(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.mu.Lock()
	b.machine.domains[domain.ID(id)].written++
	b.machine.mu.Unlock()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	if op.State != daemon.OperationFailed || !strings.Contains(op.Cause, "was written to since") {
		t.Errorf("%s: %s", op.State, op.Cause)
	}
	b.succeed(b.free(b.StopCapsule, alice, id))
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.settled()
}

// TestLeaveFailsLate: a capsule that is back at its clean point and cannot be opened is held in maintenance, where it is,
// and goes on from there: what it had in memory is not lost.
func TestLeaveFailsLate(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.faultAt("Resume")
	if op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false)); op.State != daemon.OperationFailed {
		t.Fatal(op.State)
	}
	b.machine.well()
	if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Maintenance || c.Observed != "paused" {
		t.Fatalf("%s in %s, %s", c.State, c.Mode, c.Observed)
	}
	if p, err := b.Prove(t.Context(), alice, id); err != nil || !p.Proved {
		t.Errorf("held, and not proved: %+v, %v", p, err)
	}
	b.resumed(id)
}

// TestReadmittedGuestWrites: a way out that fails when the guest has been flushed leaves it frozen; taken back to secure
// mode it writes again.
func TestReadmittedGuestWrites(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.faultAt("Destroy")
	b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	b.machine.well()
	b.machine.mu.Lock()
	frozen := b.machine.frozen[domain.ID(id)]
	b.machine.mu.Unlock()
	b.succeed(b.free(b.ResumeCapsule, root, id))
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure {
		t.Fatalf("%s in %s", c.State, c.Mode)
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if !frozen || b.machine.frozen[domain.ID(id)] {
		t.Errorf("frozen %t, and %t afterwards", frozen, b.machine.frozen[domain.ID(id)])
	}
}
