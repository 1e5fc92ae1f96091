package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestRecordUnreadAtTheBegin: an operation whose record cannot be read at first waits for it. It neither fails for that, nor
// does it leave a capsule on its way with nobody to take it on.
func TestRecordUnreadAtTheBegin(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.FailLoads("leave", 3)
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance {
		t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
	}
	b.settled()
}
