package daemon_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
)

// TestOlderJournal restores a backup of the records that was made in the middle of an operation, while the capsule has
// long been in secure mode: an operation that is taken up opens nothing (the bench looks after every effect). A stop
// brings the capsule back.
func TestOlderJournal(t *testing.T) {
	tests := []struct {
		kind, step string
		state      daemon.State
		mode       daemon.Mode
	}{
		{"launch", "start", daemon.LaunchPending, daemon.NotDefined},
		{"leave", "release", daemon.SwitchToMaintenancePending, daemon.Secure},
		{"leave", "policy", daemon.SwitchToMaintenancePending, daemon.Secure},
		{"leave", "resume", daemon.SwitchToMaintenancePending, daemon.Secure},
		{"readmit", "policy", daemon.SwitchToMaintenancePending, daemon.Maintenance},
	}
	for _, tt := range tests {
		t.Run(tt.kind+" at "+tt.step, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.secured()
			b.kill()
			if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
				op := store.Operation{ID: uuid.NewString(), Kind: tt.kind, Target: id, Owner: alice.GUID, State: string(daemon.OperationRunning),
					Step: tt.step, Actor: alice.GUID, Started: time.Now()}
				for _, name := range daemon.StepNames(tt.kind) {
					op.Steps = append(op.Steps, store.Step{Name: name, State: "done"})
				}
				return errors.Join(tx.PutCleanPoint(id, "", ""), tx.InsertOperation(op),
					tx.MoveCapsule(id, []daemon.State{daemon.Running}, tt.state, tt.mode, ""))
			}); err != nil {
				t.Fatal(err)
			}
			b.start()
			b.idle()
			b.until(func() bool { // held, or off: nothing else is left to be begun
				b.idle()
				c := b.show(id)
				return c.State == daemon.Failed && c.Observed != "running" || c.State == daemon.Shutdown
			})
			if b.show(id).State == daemon.Failed {
				b.succeed(b.free(b.StopCapsule, alice, id))
			}
			b.settled()
		})
	}
}

// TestOlderRecordsDetached: the volumes of a capsule were detached behind the daemon's back before the older records were
// put back. What it has read is in its memory and on its overlay, so that it is closed all the same.
func TestOlderRecordsDetached(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.kill()
	b.machine.mu.Lock()
	d := b.machine.domains[domain.ID(id)]
	d.live = d.live[:1]
	b.machine.mu.Unlock()
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.PutCleanPoint(id, "", ""),
			tx.MoveCapsule(id, []daemon.State{daemon.Running}, daemon.Running, daemon.Maintenance, ""))
	}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.idle()
	if c := b.show(id); c.State != daemon.Failed || c.Observed != "paused" {
		t.Errorf("%s in %s, %s: %q", c.State, c.Mode, c.Observed, c.Cause)
	}
	if op := b.wait(b.free(b.ResumeCapsule, root, id)); op.State != daemon.OperationFailed {
		t.Errorf("it is resumed: %s", op.State)
	}
	b.succeed(b.free(b.StopCapsule, alice, id))
	b.settled()
}
