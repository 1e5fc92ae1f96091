package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestOperationsOfWhoMayNotKnow: a member who has not accepted the terms knows that the capsule exists, and not what is done
// to it, when, and by whom.
func TestOperationsOfWhoMayNotKnow(t *testing.T) {
	b, raw := opened(t, nil)
	id := b.create(alice, b.image())
	op := b.wait(b.LaunchCapsule(t.Context(), alice, id))
	if _, err := raw.ExecContext(t.Context(), `INSERT INTO users (guid) VALUES ('bob')`); err != nil {
		t.Fatal(err)
	}
	for _, tou := range []bool{false, true} {
		if _, err := raw.ExecContext(t.Context(), `INSERT OR REPLACE INTO members (capsule, guid, role, tou) VALUES (?, 'bob', 'CONTROLLER', ?)`, id, tou); err != nil {
			t.Fatal(err)
		}
		seen, err := b.ShowCapsules(t.Context(), bob, id)
		if err != nil || seen[0].Redacted == tou {
			t.Fatalf("terms accepted %t: %+v, %v", tou, seen, err)
		}
		if _, err := b.Operation(t.Context(), bob, op.ID); (err == nil) != tou {
			t.Errorf("terms accepted %t: one operation: %v", tou, err)
		}
		if list, err := b.Operations(t.Context(), bob, daemon.OperationFilter{Target: id}); err != nil || len(list) > 0 != tou {
			t.Errorf("terms accepted %t: %d operations, %v", tou, len(list), err)
		}
	}
}
