package daemon_test

import (
	"slices"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestNoSweepBesideCleanPoint: the RAM that is being saved is a file that no record names. A full pass leaves it alone.
func TestNoSweepBesideCleanPoint(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	reached, release := b.machine.hold("Checkpoint")
	op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	passes := func() (passes, sweeps int) {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return b.machine.count("Leases"), b.machine.count("Sweep")
	}
	_, before := passes()
	for range 2 { // what comes after the leases of the first pass is over when the second one asks for them
		leases, _ := passes()
		b.machine.events <- domain.Event{}
		b.until(func() bool { now, _ := passes(); return now > leases })
	}
	if _, sweeps := passes(); sweeps != before {
		t.Error("it was swept while the RAM was saved")
	}
	release()
	b.succeed(op, nil)
	b.pass()
	b.settled()
}

// TestNoSweepAfterDeathInCleanPoint: libvirt goes on saving the RAM when the daemon that asked for it is killed. The next
// one sweeps only once that has a record.
func TestNoSweepAfterDeathInCleanPoint(t *testing.T) {
	for _, f := range []fault{dieBefore, dieAfter} {
		b := newBench(t, nil)
		id := b.create(alice, b.image())
		b.succeed(b.LaunchCapsule(t.Context(), alice, id))
		reached := make(chan struct{})
		b.machine.mu.Lock()
		b.machine.fault = func(_ int, call string) fault {
			if call == "Checkpoint" {
				close(reached)
				return f
			}
			return none
		}
		b.machine.mu.Unlock()
		if _, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false); err != nil {
			t.Fatal(err)
		}
		<-reached
		b.kill()
		b.machine.mu.Lock()
		b.machine.fault = nil
		died := len(b.machine.calls)
		b.machine.mu.Unlock()
		b.start()
		b.idle()
		b.machine.mu.Lock()
		since := slices.Clone(b.machine.calls[died:])
		b.machine.mu.Unlock()
		if at := slices.Index(since, "Attach"); at < 0 || slices.Contains(since[:at], "Sweep") {
			t.Errorf("after its death in the clean point it did: %v", since)
		}
		b.settled()
	}
}
