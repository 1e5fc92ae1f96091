package daemon_test

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// watched is a machine whose firewall and sweep can be looked at.
type watched struct {
	fencesOf
	drift  atomic.Bool
	guards atomic.Int32
}

func (w *watched) Verify(context.Context) ([]string, error) {
	if w.drift.Load() {
		return []string{"rules were flushed"}, nil
	}
	return nil, nil
}

func (w *watched) Apply(ctx context.Context, all []firewall.Binding) error {
	w.drift.Store(false)
	return w.machine.Apply(ctx, all)
}

func (w *watched) GuardBridge(context.Context) error { w.guards.Add(1); return nil }

func watch(t *testing.T) (*bench, *watched) {
	w := &watched{}
	return newBench(t, func(o *daemon.Options) { w.fencesOf = o.Fences.(fencesOf); o.Fences = w }), w
}

// pass waits until one full pass has begun and ended after now: the second one begins when the first is through. A pass whose
// sweep is put off, since an operation that has ended still has to let go, counts for nothing, and another one is asked for.
func (b *bench) pass() {
	b.t.Helper()
	for range 2 {
		before, asked := b.called("Sweep"), time.Time{}
		b.until(func() bool {
			if time.Since(asked) > 100*time.Millisecond {
				asked = time.Now()
				select {
				case b.machine.events <- domain.Event{}:
				default: // so many wait already
				}
			}
			return b.called("Sweep") > before
		})
	}
	b.idle()
}

// called is count for a test that does not hold the machine's lock.
func (b *bench) called(call string) int {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	return b.machine.count(call)
}

// count says how often a call was made. The machine is locked.
func (m *machine) count(call string) (n int) {
	for _, c := range m.calls {
		if c == call {
			n++
		}
	}
	return n
}

// TestWhatOthersChanged takes away and adds, behind the daemon's back, what a full pass has to mend.
func TestWhatOthersChanged(t *testing.T) {
	b, w := watch(t)
	m := b.machine
	on, off := b.create(alice, b.image()), ""
	b.succeed(b.LaunchCapsule(t.Context(), alice, on))
	all, err := b.Images(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	off = b.create(alice, all[0].ID)

	m.mu.Lock()
	clear(m.bindings)
	clear(m.leases)
	strange, _ := net.ParseMAC("52:54:00:ff:ff:ff")
	m.leases[strange.String()] = domain.Lease{MAC: strange, IP: netip.MustParseAddr("192.168.53.200"), Name: "cap-gone"}
	m.images["sha256:ff"] = imagestore.Image{Digest: "sha256:ff"}
	m.mu.Unlock()
	w.drift.Store(true)
	guards := w.guards.Load()
	b.pass()
	b.settled() // as many leases and bindings as there are to be
	if w.guards.Load() == guards {
		t.Error("the bridge's settings were not looked at")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases[strange.String()].Name != "" {
		t.Error("the lease of nobody is left")
	}
	for id, policy := range map[string]bool{on: true, off: false} {
		if _, ok := m.bindings[m.domains[domain.ID(id)].spec.NIC.Tap]; ok != policy {
			t.Errorf("%s has a binding: %v", id, ok)
		}
	}
	if len(m.images) != 1 {
		t.Errorf("%d image files for one record", len(m.images))
	}
}

// TestBindingsOfARestart: the first thing a daemon does is to bind those that may run, and those alone, to the policy
// of their mode.
func TestBindingsOfARestart(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	id := b.create(alice, image)
	b.create(alice, image)
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.kill()
	b.machine.mu.Lock()
	clear(b.machine.bindings)
	first := len(b.machine.calls)
	b.machine.mu.Unlock()
	b.start()
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if began := b.machine.calls[first : first+2]; began[0] != "OpenBy" || began[1] != "Apply" { // no data may be near who is opened
		t.Errorf("it began with %v", began)
	}
	if len(b.machine.bindings) != 1 {
		t.Errorf("%d bindings for one running capsule", len(b.machine.bindings))
	}
	for _, bound := range b.machine.bindings {
		if bound.Policy != "maintenance" || bound.SSHPort == 0 {
			t.Errorf("%+v", bound)
		}
	}
}

// TestStrays: the domain of a deleted capsule is ended; one that no record ever named is not ours to end, nor are files
// that no record ever named.
func TestStrays(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	m := b.machine
	m.mu.Lock()
	risen := *m.domains[domain.ID(id)]
	m.mu.Unlock()
	b.succeed(b.DeleteCapsule(t.Context(), alice, id))
	foreign := uuid.NewString()
	m.mu.Lock()
	m.domains[domain.ID(id)] = &risen
	other := risen
	other.spec.ID, other.spec.Record, other.spec.Name = domain.ID(foreign), foreign, "cap-other"
	m.domains[other.spec.ID] = &other
	m.file(id, "disk")
	m.file(foreign, "disk")
	m.mu.Unlock()
	b.pass()
	b.pass()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.domains[domain.ID(id)] != nil || m.dirs[id] != nil {
		t.Error("the domain or the files of a deleted capsule are left")
	}
	if d := m.domains[domain.ID(foreign)]; d == nil || d.state != domain.Running {
		t.Error("a domain that no record ever named was ended")
	}
	if m.dirs[foreign] == nil {
		t.Error("files that no record ever named were removed")
	}
}

// TestUnmade: the domain that a failed creation could not undefine goes with the next full pass.
func TestUnmade(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, name string) fault {
		switch name {
		case "Define":
			return errAfter
		case "Undefine":
			return errBefore
		}
		return none
	}
	b.machine.mu.Unlock()
	_, op, err := b.CreateCapsule(t.Context(), alice, order(image))
	if op := b.wait(op, err); op.State != daemon.OperationFailed {
		t.Fatalf("%+v", op)
	}
	b.machine.mu.Lock()
	left := len(b.machine.domains)
	b.machine.mu.Unlock()
	if left != 1 {
		t.Fatal("the test does not do what it says")
	}
	b.machine.well()
	b.pass()
	b.settled()
}

// TestPause: a capsule that stands still for want of disk says so, and no longer when it runs again.
func TestPause(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	set := func(s domain.RunState, r domain.Reason) {
		b.machine.mu.Lock()
		b.machine.domains[domain.ID(id)].state, b.machine.domains[domain.ID(id)].reason = s, r
		b.machine.mu.Unlock()
		b.machine.events <- domain.Event{ID: domain.ID(id)}
	}
	set(domain.Paused, domain.ReasonIOError)
	b.until(func() bool { return b.show(id).Cause != "" })
	if got := b.show(id); got.State != daemon.Running || got.Observed != "paused" {
		t.Errorf("%s, %s", got.State, got.Observed)
	}
	set(domain.Running, domain.ReasonNone)
	b.until(func() bool { return b.show(id).Cause == "" })
	b.settled()
}

// TestOldOperations are forgotten a month after they ended; younger ones, and those that have not ended, are not.
func TestOldOperations(t *testing.T) {
	b := newBench(t, nil)
	long := time.Now().Add(-40 * 24 * time.Hour)
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		for _, o := range []store.Operation{
			{ID: "old", Target: "a", Started: long, Ended: long},
			{ID: "slow", Target: "b", Started: long, Ended: time.Now()},
			{ID: "open", Target: "c", Started: long},
		} {
			o.Kind, o.State = "stop", "failed"
			if err := tx.InsertOperation(o); err != nil {
				return err
			}
			if err := tx.UpdateOperation(o); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.machine.events <- domain.Event{}
	b.until(func() bool {
		_, err := b.Operation(t.Context(), root, "old")
		return code(err) == daemon.NotFound
	})
	for _, id := range []string{"slow", "open"} {
		if _, err := b.Operation(t.Context(), root, id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
