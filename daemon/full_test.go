package daemon_test

import (
	"database/sql"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestHoldOnFullDisk: a guest can fill the disk that the records are on. What cannot be proved safe is closed and paused
// all the same, and held once that can be written down.
func TestHoldOnFullDisk(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	db, err := sql.Open("sqlite3", "file:"+b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	run := func(q string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	run("CREATE TRIGGER full BEFORE INSERT ON operations BEGIN SELECT RAISE(ABORT, 'no room'); END")
	b.machine.mu.Lock()
	b.machine.alien[domain.ID(id)] = "a host device"
	b.machine.mu.Unlock()
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.machine.mu.Lock()
	policy := b.machine.bindings["cap-"+id[:8]].Policy
	delete(b.machine.alien, domain.ID(id))
	b.machine.mu.Unlock()
	if c := b.show(id); c.State != daemon.Running || c.Observed != "paused" || policy != "" {
		t.Fatalf("%s, %s under policy %q", c.State, c.Observed, policy)
	}
	run("DROP TRIGGER full")
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.idle()
	if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Secure {
		t.Fatalf("not held: %s in %s", c.State, c.Mode)
	}
	b.succeed(b.free(b.ResumeCapsule, root, id))
	b.settled()
}
