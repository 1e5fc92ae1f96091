package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestFlushWhileRecordsAreUnreadable: rules are flushed while the records cannot be read, as when they are damaged. They
// come back all the same.
func TestFlushWhileRecordsAreUnreadable(t *testing.T) {
	b, raw := opened(t, nil)
	id := b.secured()
	run := func(q string) {
		t.Helper()
		if _, err := raw.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	flushed := func() bool {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return b.machine.flushed["cap-"+id[:8]]
	}
	run("ALTER TABLE capsules RENAME TO damaged")
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	b.machine.events <- domain.Event{} // a full pass; the watcher would do as well
	b.until(func() bool { return !flushed() })
	run("ALTER TABLE damaged RENAME TO capsules")
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.idle()
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure {
		t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
	}
	b.settled()
}

// TestRecordsStayUnreadable: nobody can say any more what a capsule in secure mode should have. It is closed and paused, and
// held once the records are back.
func TestRecordsStayUnreadable(t *testing.T) {
	b, raw := opened(t, nil)
	id := b.secured()
	run := func(q string) {
		t.Helper()
		if _, err := raw.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	now := func() (string, domain.RunState) {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return b.machine.bindings["cap-"+id[:8]].Policy, b.machine.domains[domain.ID(id)].state
	}
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	run("ALTER TABLE capsules RENAME TO damaged")
	for round := range 3 {
		if policy, state := now(); policy != "secure" || state != domain.Running {
			t.Errorf("after %d rounds: %v under policy %q", round, state, policy)
		}
		if err := b.VerifyAll(t.Context()); err == nil {
			t.Error("the records can be read")
		}
	}
	if policy, state := now(); policy != "" || state != domain.Paused {
		t.Errorf("%v under policy %q", state, policy)
	}
	run("ALTER TABLE damaged RENAME TO capsules")
	if err := b.VerifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.idle()
	if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Secure {
		t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
	}
	b.succeed(b.ResumeCapsule(t.Context(), root, id))
	b.settled()
}
