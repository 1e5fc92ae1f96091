package daemon_test

import (
	"context"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestUnknownStep: another version died on the way to secure mode, at a step that this one does not know, with data attached.
// Nothing of it can be taken back step by step, so that it is not said to be as it was: it is held, and goes back by its
// clean point.
func TestUnknownStep(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	reached, release := b.machine.hold("GuestMount")
	if _, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false); err != nil {
		t.Fatal(err)
	}
	<-reached
	b.stop()
	release()
	b.kill()
	b.machine.well()
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		op, err := tx.OpenOperation(id)
		if err != nil {
			return err
		}
		op.Step = "seal"
		return tx.UpdateOperation(op)
	}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until(func() bool { b.idle(); return b.show(id).Observed == "paused" })
	if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Secure {
		t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
	}
	b.succeed(b.free(func(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
		return b.SwitchCapsule(ctx, c, id, daemon.Maintenance, false)
	}, alice, id))
	b.settled()
}
