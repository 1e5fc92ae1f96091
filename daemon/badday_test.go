package daemon_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// always makes every call of that name fail before its effect.
func (m *machine) always(call string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = func(_ int, name string) fault {
		if name == call {
			return errBefore
		}
		return none
	}
}

// TestStuckDeletion lets a deletion fail again and again, and looks at it often: it is tried less and less often, an
// administrator sees it, and it goes through when it can.
func TestStuckDeletion(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.machine.always("Erase")
	if op := b.wait(b.DeleteCapsule(t.Context(), alice, id)); op.State != daemon.OperationFailed {
		t.Fatalf("the deletion: %+v", op)
	}
	for range 200 {
		b.machine.events <- domain.Event{ID: domain.ID(id)}
	}
	b.until(func() bool { return len(b.machine.events) == 0 })
	if ops, err := b.Operations(t.Context(), root, daemon.OperationFilter{Target: id}); err != nil || len(ops) > 4 {
		t.Errorf("200 looks began %d operations, %v", len(ops), err)
	}
	b.until(func() bool { // while it is tried again it is hidden
		seen, err := b.ShowCapsules(t.Context(), root, id)
		return err == nil && seen[0].State == daemon.DeleteError && seen[0].Cause != ""
	})
	if _, err := b.ShowCapsules(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("its owner sees it: %v", err)
	}
	b.machine.well()
	b.until(func() bool {
		_, err := b.DeleteCapsule(t.Context(), root, id)
		return err == nil || code(err) == daemon.NotFound
	})
	b.settled()
}

// TestTroubleOfOne starts a daemon on a host where the sweep, the leases or one capsule cannot be seen to: that keeps
// nobody else waiting.
func TestTroubleOfOne(t *testing.T) {
	for _, call := range []string{"Sweep", "Leases", "Erase"} {
		t.Run(call, func(t *testing.T) {
			b := newBench(t, nil)
			image := b.image()
			b.create(alice, image)
			b.kill()
			b.machine.always(call)
			b.start()
			b.machine.well()
			b.create(alice, image)
		})
	}
}

// TestFenceFirst holds the firewall to its word while libvirt is away.
func TestFenceFirst(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.mu.Lock()
	b.machine.down = context.DeadlineExceeded
	clear(b.machine.bindings)
	b.machine.mu.Unlock()
	b.until(func() bool {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return len(b.machine.bindings) == 1
	})
}

// TestOtherNetwork changes the network under capsules that were made for another: the daemon refuses before it changes
// anything.
func TestOtherNetwork(t *testing.T) {
	for name, change := range map[string]func(*daemon.Options){
		"network.subnet": func(o *daemon.Options) { o.Network.Subnet = netip.MustParsePrefix("192.168.54.0/24") },
		"network.bridge": func(o *daemon.Options) { o.Network.Bridge = "other0" },
		"network.name":   func(o *daemon.Options) { o.Network.Name = "other" },
		"network.ports":  func(o *daemon.Options) { o.PortLow += 10 },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.create(alice, b.image())
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.kill()
			b.opt = change
			b.launch()
			if err := <-b.done; err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("the daemon says %v", err)
			}
			b.stop = nil
			if len(b.machine.bindings) != 1 || b.machine.domains[domain.ID(id)].state != domain.Running {
				t.Error("it changed something")
			}
			b.opt = nil
			b.start()
			b.succeed(b.DeleteCapsule(t.Context(), alice, id))
			b.kill()
			b.opt = change
			b.start() // without capsules it is free
		})
	}
}

// late is a libvirt whose answers are old: what happens while it answers is not in them.
type late struct {
	*machine
	mu        sync.Mutex
	meanwhile func()
}

func (l *late) ObserveOne(ctx context.Context, id domain.ID) (domain.Observed, error) {
	o, err := l.machine.ObserveOne(ctx, id)
	l.mu.Lock()
	f := l.meanwhile
	l.meanwhile = nil
	l.mu.Unlock()
	if f != nil {
		f()
	}
	return o, err
}

// TestOldObservation stops and launches a capsule between the reconciler's question to libvirt and the answer: that its
// guest had powered itself off is old news then.
func TestOldObservation(t *testing.T) {
	old := &late{}
	b := newBench(t, func(o *daemon.Options) {
		old.machine = o.Domains.(*machine)
		o.Domains = old
	})
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.until(func() bool { return len(b.machine.events) == 0 })
	b.machine.mu.Lock()
	d := b.machine.domains[domain.ID(id)]
	d.state, d.reason = domain.Off, domain.ReasonShutdown
	b.machine.mu.Unlock()
	done := make(chan struct{})
	old.mu.Lock()
	old.meanwhile = func() {
		defer close(done)
		b.succeed(b.StopCapsule(t.Context(), alice, id))
		b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	}
	old.mu.Unlock()
	b.machine.events <- domain.Event{ID: domain.ID(id)}
	<-done
	b.machine.events <- domain.Event{ID: "another"} // taken when the look is over: there is one reconciler
	b.until(func() bool { return len(b.machine.events) == 0 })
	b.settled()
	ops, err := b.Operations(t.Context(), root, daemon.OperationFilter{Target: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		if op.Kind == "poweroff" {
			t.Error("a capsule that runs was taken for one that powered itself off")
		}
	}
	if got := b.show(id); got.State != daemon.Running {
		t.Errorf("it is %s", got.State)
	}
}
