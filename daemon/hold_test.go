package daemon_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestFlushDuringLaunch: rules are flushed after a launch has put up its fence. What is put back is the fence of the mode
// that it launches into; the machine starts nothing without it.
func TestFlushDuringLaunch(t *testing.T) {
	b, w := watch(t)
	id := b.create(alice, b.image())
	reached, release := b.machine.hold("Start")
	op, err := b.LaunchCapsule(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	b.machine.mu.Lock()
	clear(b.machine.bindings)
	b.machine.mu.Unlock()
	w.drift.Store(true)
	b.machine.events <- domain.Event{}
	b.until(func() bool { return !w.drift.Load() })
	b.machine.mu.Lock()
	bound := len(b.machine.bindings)
	b.machine.mu.Unlock()
	if bound != 1 {
		t.Errorf("%d bindings after the flush", bound)
	}
	release()
	b.succeed(op, nil)
	b.settled()
}

// unfencing holds the outcome of an operation back, by the lock of the records, from the moment its fence is down.
type unfencing struct {
	*watched
	dropped func()
	once    sync.Once
}

func (u *unfencing) Drop(ctx context.Context, tap string) error {
	err := u.watched.Drop(ctx, tap)
	u.once.Do(u.dropped)
	return err
}

// TestFlushDuringStop: rules are flushed when a stop has taken its fence down and not yet said so in the records, which
// still say that there is one. It is not put back.
func TestFlushDuringStop(t *testing.T) {
	w, u := &watched{}, &unfencing{}
	u.watched = w
	b, raw := opened(t, func(o *daemon.Options) { w.fencesOf = o.Fences.(fencesOf); o.Fences = u })
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	conn, err := raw.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	held := make(chan error, 1)
	u.dropped = func() {
		_, err := conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
		held <- err
	}
	op, err := b.StopCapsule(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	b.machine.mu.Lock()
	before := b.machine.count("Leases")
	b.machine.mu.Unlock()
	w.drift.Store(true)
	b.machine.events <- domain.Event{}
	b.until(func() bool { // leases come after the firewall
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return b.machine.count("Leases") > before
	})
	if w.drift.Load() {
		t.Error("the rules were not put back")
	}
	b.machine.mu.Lock()
	bound := len(b.machine.bindings)
	b.machine.mu.Unlock()
	if bound != 0 {
		t.Error("the fence of a capsule that was stopped is back")
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	b.succeed(op, nil)
	b.settled()
}

// TestPatience: a step waits for a libvirt that goes away and comes back, and does not wait for any other fault.
func TestPatience(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Patience = time.Hour })
	id := b.create(alice, b.image())
	away := 0
	b.machine.mu.Lock()
	b.machine.fault = func(_ int, name string) fault {
		b.machine.down = nil
		if name == "Define" && away == 0 {
			away++
			b.machine.down = fmt.Errorf("libvirtd is gone")
		}
		return none
	}
	b.machine.mu.Unlock()
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	if away != 1 {
		t.Error("libvirt did not go away")
	}
	b.succeed(b.free(b.StopCapsule, alice, id))
	b.machine.failing("Define")
	if op := b.wait(b.LaunchCapsule(t.Context(), alice, id)); op.Code != daemon.Internal {
		t.Errorf("%+v", op)
	}
}

// TestNoRoom: what the host lacks is said before anything is written, or when it is launched.
func TestNoRoom(t *testing.T) {
	full := newBench(t, func(o *daemon.Options) { o.ReserveBytes = 1 << 41 })
	if _, _, err := full.CreateCapsule(t.Context(), alice, order(full.image())); code(err) != daemon.Exhausted {
		t.Errorf("created without disk: %v", err)
	}
	full.kill()

	b := newBench(t, func(o *daemon.Options) { o.Quota.MemoryMB = 8 << 20 })
	image := b.image()
	huge := order(image)
	huge.MemoryMB = 4 << 20
	if _, _, err := b.CreateCapsule(t.Context(), alice, huge); code(err) != daemon.Exhausted {
		t.Errorf("created without memory: %v", err)
	}
	id := b.create(alice, image)
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", b.show(id).VNCPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if op := b.wait(b.LaunchCapsule(t.Context(), alice, id)); op.Code != daemon.Exhausted || op.Step != "admit" {
		t.Errorf("launched over a console port that is taken: %+v", op)
	}
	b.settled()
}

// TestPortInUse: a port that another program listens on is given to no capsule.
func TestPortInUse(t *testing.T) {
	b := newBench(t, nil)
	l, err := net.Listen("tcp", ":26000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := b.show(b.create(alice, b.image())); got.SSHPort != 26001 || got.VNCPort != 26002 {
		t.Errorf("ports %d and %d", got.SSHPort, got.VNCPort)
	}
}

// TestStopOfHeld: a capsule that is held stays closed while it is being stopped, whoever changes rules and though the daemon
// is killed in the middle. One that ran keeps its policy while its guest powers itself off.
func TestStopOfHeld(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, held := range []bool{false, true} {
			t.Run(fmt.Sprintf("held %t, restart %t", held, restart), func(t *testing.T) {
				b, w := watch(t)
				id := b.secured()
				if held {
					b.hold(id)
				}
				reached, release := b.machine.hold("Shutdown")
				op, err := b.free(b.StopCapsule, root, id)
				if err != nil {
					t.Fatal(err)
				}
				<-reached
				if restart { // and libvirt is away: it is looked at before the operation goes on
					done := make(chan struct{})
					go func() { b.kill(); close(done) }()
					b.until(func() bool { return b.life.Err() != nil })
					b.machine.mu.Lock()
					b.machine.down = fmt.Errorf("libvirtd is gone")
					b.machine.mu.Unlock()
					release()
					<-done
					b.launch()
				}
				before := b.called("Apply")
				w.drift.Store(true)
				b.until(func() bool { return b.called("Apply") > before }) // by the watcher
				want := "secure"
				if held || restart {
					want = ""
				}
				if got := b.underPolicy(id); got != want {
					t.Errorf("it is under policy %q, and should be under %q", got, want)
				}
				if restart {
					b.machine.mu.Lock()
					b.machine.down = nil
					b.machine.mu.Unlock()
					b.until(func() bool { return b.Ready().Ready })
				} else {
					release()
				}
				b.succeed(op, nil)
				b.settled()
			})
		}
	}
}
