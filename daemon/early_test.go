package daemon_test

import (
	"errors"
	"strings"
	"sync"
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

// TestProvedWithoutLibvirt: a daemon that is started anew while libvirt is away, or while rules cannot be written, cannot
// look at a capsule in secure mode, and closes it after three rounds as one does that has run for long. The rules from
// before it are no excuse: nobody knows what is behind them.
func TestProvedWithoutLibvirt(t *testing.T) {
	for _, trouble := range []string{"libvirt away", "rules not written"} {
		t.Run(trouble, func(t *testing.T) {
			b := newBench(t, func(o *daemon.Options) { o.VerifyEvery = 10 * time.Millisecond })
			id := b.secured()
			b.kill()
			b.machine.mu.Lock()
			b.machine.down = errors.New("libvirtd is gone")
			if trouble == "rules not written" {
				b.machine.down = nil
				b.machine.alien[domain.ID(id)] = "a host device"
				b.machine.fault = func(_ int, call string) fault {
					if call == "Apply" {
						return errBefore
					}
					return none
				}
			}
			b.machine.mu.Unlock()
			ready := b.launch()
			b.until(func() bool {
				b.machine.mu.Lock()
				defer b.machine.mu.Unlock()
				return b.machine.bindings["cap-"+id[:8]].Policy == ""
			})
			if b.Ready().Ready {
				t.Error("it is ready in the midst of trouble")
			}
			b.machine.mu.Lock()
			b.machine.down, b.machine.fault = nil, nil
			delete(b.machine.alien, domain.ID(id))
			b.machine.mu.Unlock()
			<-ready
			b.idle()
			if c := b.show(id); c.State != daemon.Failed || c.Mode != daemon.Secure {
				t.Errorf("%s in %s", c.State, c.Mode)
			}
		})
	}
}

// lowered are the links that are taken down, by tap.
type lowered struct {
	fencesOf
	taps sync.Map
}

func (l *lowered) Shut(tap string) error {
	l.taps.Store(tap, true)
	return l.fencesOf.Shut(tap)
}

// TestReboot: the host was restarted under a capsule in secure mode, and libvirt, the firewall or both are not there yet. Its
// process is gone: its link is down, it is found off once they are there, and nobody has to bring it back from a hold.
func TestReboot(t *testing.T) {
	for trouble, row := range map[string]struct {
		away, gone bool
		fails      string
	}{
		"libvirt away":                 {away: true},
		"libvirt away, rules gone":     {away: true, gone: true, fails: "Apply"},
		"libvirt away, rules not read": {away: true, fails: "InspectFence"},
		"rules not read":               {fails: "InspectFence"},
		"rules not restored":           {fails: "Verify"},
	} {
		t.Run(trouble, func(t *testing.T) {
			l := &lowered{}
			b := newBench(t, func(o *daemon.Options) {
				o.VerifyEvery = 10 * time.Millisecond
				l.fencesOf, o.Fences = o.Fences.(fencesOf), l
			})
			id := b.secured()
			b.kill()
			b.machine.over(id, domain.ReasonNone)
			l.taps.Clear()
			b.machine.mu.Lock()
			if row.away {
				b.machine.down = errors.New("libvirtd is not there yet")
			}
			b.machine.flushed["cap-"+id[:8]] = row.gone
			b.machine.mu.Unlock()
			b.machine.failing(row.fails, "EnsureNetwork") // no full pass yet
			ready := b.launch()
			b.until(func() bool { _, down := l.taps.Load("cap-" + id[:8]); return down })
			rounds := b.machine.looking.Load()
			b.until(func() bool { return b.machine.looking.Load() > rounds+5 }) // it is looked at again
			if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure {
				t.Errorf("in the midst of trouble it is %s in %s: %s", c.State, c.Mode, c.Cause)
			}
			b.machine.mu.Lock()
			b.machine.down, b.machine.fault = nil, nil
			b.machine.mu.Unlock()
			<-ready
			b.until(func() bool { return b.show(id).State == daemon.Shutdown })
			if c := b.show(id); !strings.Contains(c.Cause, "found off") {
				t.Errorf("cause %q", c.Cause)
			}
			b.settled()
		})
	}
}

// TestHoldWithoutLibvirt: a hold that cannot pause, for libvirt is away, says what the capsule is held for all the same, in
// the record and in the chain; and what is held runs no longer than libvirt is away.
func TestHoldWithoutLibvirt(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.mu.Lock()
	b.machine.down = errors.New("libvirtd is gone")
	b.machine.mu.Unlock()
	for range 3 {
		if err := b.VerifyAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.idle()
	told := func(where, text string) {
		t.Helper()
		for _, part := range []string{"libvirt does not answer", "it is held for: it cannot be looked at: domain in libvirt"} {
			if strings.Count(text, part) != 1 {
				t.Errorf("%s says %q", where, text)
			}
		}
	}
	told("its record", b.show(id).Cause)
	chain, err := b.SwitchRecords(t.Context(), root, id)
	if err != nil {
		t.Fatal(err)
	}
	told("the chain", chain[0].Cause)
	b.machine.mu.Lock()
	b.machine.down = nil
	b.machine.mu.Unlock()
	b.machine.failing("Pause")
	b.pass()
	if c := b.show(id); strings.Count(c.Cause, "held for") != 1 || !strings.Contains(c.Cause, "it cannot be looked at") {
		t.Errorf("after another hold that failed it says %q", c.Cause)
	}
	b.machine.well()
	b.pass()
	b.resumed(id)
}

// TestNoTemplates: a host that cannot have the templates of volumes, as when its disk is full or volume_gb was changed,
// proves its capsules and serves them; it creates none, and says so. Once it can it does.
func TestNoTemplates(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.VerifyEvery = 10 * time.Millisecond })
	image := b.image()
	id, other := b.create(alice, image), b.create(alice, image)
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.kill()
	b.machine.always("Prepare")
	b.start()
	if r := b.Ready(); r.Ready || !strings.Contains(r.Reasons[0], "volume templates") {
		t.Errorf("without templates it says %+v", r)
	}
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(image)); code(err) != daemon.Unavailable {
		t.Errorf("created without templates: %v", err)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, other))
	b.machine.mu.Lock()
	b.machine.alien[domain.ID(id)] = "a host device"
	b.machine.mu.Unlock()
	b.until(func() bool { c := b.show(id); return c.State == daemon.Failed && c.Observed == "paused" })
	b.machine.mu.Lock()
	delete(b.machine.alien, domain.ID(id))
	b.machine.mu.Unlock()
	b.machine.well()
	b.pass()
	if r := b.Ready(); !r.Ready {
		t.Errorf("with templates it says %+v", r)
	}
	b.resumed(id)
	b.create(alice, image)
}
