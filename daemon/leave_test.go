package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

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
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.settled()
}
