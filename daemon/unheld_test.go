package daemon_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
)

// hogged is a firewall that hangs when a binding but one is put, until it is let go: whoever changes rules waits meanwhile.
type hogged struct {
	fencesOf
	on       atomic.Bool
	but      string // the tap of that one
	in, wait chan struct{}
}

func (s *hogged) Put(ctx context.Context, b firewall.Binding) error {
	if s.on.Load() && b.Tap != s.but {
		close(s.in)
		<-s.wait
		return firewall.ErrUnavailable
	}
	return s.fencesOf.Put(ctx, b)
}

// TestCloseInVain: a capsule is not safe, its hold cannot be written down, and whoever changes rules keeps it from being
// closed. It is paused at once, closed with the next change of rules, and held in the next round, though all looks well by
// then. One that somebody stops first is not opened for that.
func TestCloseInVain(t *testing.T) {
	for _, then := range []string{"held", "held by a full pass", "stopped"} {
		t.Run(then, func(t *testing.T) {
			s := &hogged{in: make(chan struct{}), wait: make(chan struct{})}
			b, raw := opened(t, func(o *daemon.Options) { s.fencesOf, o.Fences = o.Fences.(fencesOf), s })
			image := b.image()
			id, other := b.create(alice, image), b.create(alice, image)
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
			b.idle()
			s.but = "cap-" + id[:8]
			s.on.Store(true)
			launch, err := b.LaunchCapsule(t.Context(), alice, other)
			if err != nil {
				t.Fatal(err)
			}
			<-s.in
			if _, err := raw.Exec("CREATE TRIGGER full BEFORE INSERT ON operations BEGIN SELECT RAISE(ABORT, 'no room'); END"); err != nil {
				t.Fatal(err)
			}
			b.machine.mu.Lock()
			b.machine.alien[domain.ID(id)] = "a host device"
			b.machine.mu.Unlock()
			if err := b.VerifyAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.machine.mu.Lock()
			delete(b.machine.alien, domain.ID(id))
			b.machine.mu.Unlock()
			if c := b.show(id); c.State != daemon.Running || c.Observed != "paused" || b.policy(id) == firewall.Closed {
				t.Fatalf("%s, %s under policy %q: nobody kept it from being closed", c.State, c.Observed, b.policy(id))
			}
			s.on.Store(false)
			close(s.wait)
			b.wait(launch, nil) // fails, and the rules are written anew
			b.until(func() bool { return b.policy(id) == firewall.Closed })
			if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); code(err) != daemon.Busy {
				t.Errorf("its type is changed: %v", err)
			}
			if list := b.outcomes(id); len(list) > 0 {
				t.Errorf("a change of its type was begun: %q", list)
			}
			if _, err := raw.Exec("DROP TRIGGER full"); err != nil {
				t.Fatal(err)
			}
			switch then {
			case "held":
				if err := b.VerifyAll(t.Context()); err != nil {
					t.Fatal(err)
				}
			case "held by a full pass":
				b.pass()
			case "stopped":
				reached, release := b.machine.hold("Shutdown")
				op, err := b.StopCapsule(t.Context(), alice, id)
				if err != nil {
					t.Fatal(err)
				}
				<-reached
				b.machine.mu.Lock()
				b.machine.flushed["cap-"+id[:8]] = true
				b.machine.mu.Unlock()
				before := b.called("Apply")
				b.until(func() bool { return b.called("Apply") > before }) // by the watcher
				if p := b.policy(id); p != firewall.Closed {
					t.Errorf("while it is stopped it is under %q", p)
				}
				release()
				b.succeed(op, nil)
				b.succeed(b.free(b.LaunchCapsule, alice, id)) // nothing is held against it any more
				if err := b.VerifyAll(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.idle()
				if c := b.show(id); c.State != daemon.Running || c.Observed != "running" {
					t.Errorf("launched again it is %s, %s: %s", c.State, c.Observed, c.Cause)
				}
				return
			}
			b.idle()
			if c := b.show(id); !strings.Contains(c.Cause, "a host device") {
				t.Errorf("cause %q", c.Cause)
			}
			b.resumed(id)
		})
	}
}

// TestMaintenanceCloseUnwritten: a capsule in maintenance mode has its volumes open, the hold cannot be written down, and the
// volumes are gone when it can. It is held all the same: it stands still, and nobody else would let it go on.
func TestMaintenanceCloseUnwritten(t *testing.T) {
	for _, by := range []string{"verifier", "full pass"} {
		t.Run(by, func(t *testing.T) {
			b, raw := opened(t, nil)
			id := b.launched()
			b.idle()
			if _, err := raw.Exec("CREATE TRIGGER full BEFORE INSERT ON operations BEGIN SELECT RAISE(ABORT, 'no room'); END"); err != nil {
				t.Fatal(err)
			}
			b.machine.mu.Lock()
			d := b.machine.domains[domain.ID(id)]
			own := d.live
			d.live = append(own[:1:1], domain.Disk{Path: "secure_volume", Serial: "secure_volume"})
			b.machine.mu.Unlock()
			b.pass()
			b.machine.mu.Lock()
			d.live, b.machine.broken = own, nil
			b.machine.mu.Unlock()
			if c := b.show(id); c.State != daemon.Running || c.Observed != "paused" || b.policy(id) != firewall.Closed {
				t.Fatalf("%s, %s under policy %q", c.State, c.Observed, b.policy(id))
			}
			if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); code(err) != daemon.Busy {
				t.Errorf("its type is changed: %v", err)
			}
			if _, err := raw.Exec("DROP TRIGGER full"); err != nil {
				t.Fatal(err)
			}
			if by == "verifier" {
				if err := b.VerifyAll(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				b.pass()
			}
			b.idle()
			if c := b.show(id); c.Mode != daemon.Maintenance || !strings.Contains(c.Cause, "has its volumes open") {
				t.Errorf("held in %s: %s", c.Mode, c.Cause)
			}
			b.resumed(id)
			if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); err != nil {
				t.Error(err)
			}
		})
	}
}
