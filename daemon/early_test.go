package daemon_test

import (
	"errors"
	"testing"
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
