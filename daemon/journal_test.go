package daemon_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestJournalOfAnOlderVersion: an operation that was begun when its procedure had fewer steps is carried through.
func TestJournalOfAnOlderVersion(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.kill()
	op := store.Operation{ID: uuid.NewString(), Kind: "stop", Target: id, Owner: alice.GUID, State: string(daemon.OperationRunning),
		Step: "shutdown", Steps: []store.Step{{Name: "shutdown", State: "running"}}, Actor: alice.GUID, Started: time.Now()}
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.InsertOperation(op),
			tx.MoveCapsule(id, []daemon.State{daemon.Running}, daemon.ShutdownPending, daemon.Maintenance, ""))
	}); err != nil {
		t.Fatal(err)
	}
	b.start()
	done, err := b.Operation(t.Context(), root, op.ID)
	b.succeed(done, err)
	done, err = b.Operation(t.Context(), root, op.ID)
	if err != nil || len(done.Steps) != len(daemon.StepNames("stop")) {
		t.Errorf("%+v, %v", done.Steps, err)
	}
	b.settled()
}
