package daemon_test

import (
	"errors"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// TestFlushWhileStarting: a daemon is started anew while libvirt is away, and capsules in secure mode run on. Rules that
// somebody flushes come back; the daemon is not ready for anything else.
func TestFlushWhileStarting(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.kill()
	b.machine.mu.Lock()
	b.machine.down = errors.New("libvirtd is gone")
	b.machine.mu.Unlock()
	ready := b.launch()
	b.until(func() bool { return len(b.Ready().Reasons) > 0 && b.Ready().Reasons[0] != "the daemon is starting" })
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	b.until(func() bool {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		return !b.machine.flushed["cap-"+id[:8]]
	})
	if b.Ready().Ready {
		t.Error("it is ready without libvirt")
	}
	b.machine.mu.Lock()
	b.machine.down = nil
	b.machine.mu.Unlock()
	<-ready
	b.settled()
}

// TestProvedWhileStarting: a full pass that fails again and again keeps the daemon from being ready, and not from holding a
// capsule that is not safe.
func TestProvedWhileStarting(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.VerifyEvery = 10 * time.Millisecond })
	id := b.secured()
	b.kill()
	b.machine.faultAt("EnsureNetwork")
	ready := b.launch()
	b.machine.mu.Lock()
	b.machine.alien[domain.ID(id)] = "a host device"
	b.machine.mu.Unlock()
	b.until(func() bool { c := b.show(id); return c.State == daemon.Failed && c.Observed == "paused" })
	if b.Ready().Ready {
		t.Error("it is ready without a network")
	}
	b.machine.mu.Lock()
	delete(b.machine.alien, domain.ID(id))
	b.machine.mu.Unlock()
	b.machine.well()
	<-ready
	b.resumed(id)
}
