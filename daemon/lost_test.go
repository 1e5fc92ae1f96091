package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// losing has libvirt lose sight of a capsule that runs on, and say so.
func (b *bench) losing(id string, l lost) {
	b.machine.mu.Lock()
	b.machine.lost[domain.ID(id)] = l
	b.machine.mu.Unlock()
	b.machine.events <- domain.Event{ID: domain.ID(id)}
}

// underPolicy is the policy that a capsule is bound under in the kernel; "" is closed.
func (b *bench) underPolicy(id string) string {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	return b.machine.bindings["cap-"+id[:8]].Policy
}

// kept checks that nothing was given up under the process of a capsule which libvirt has lost sight of, and that it is closed.
func (b *bench) kept(id string, secure bool) {
	b.t.Helper()
	b.until(func() bool { return b.underPolicy(id) == "" }) // at the end of an operation, a moment after its outcome
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if d, p := b.machine.domains[domain.ID(id)], b.machine.points[domain.ID(id)]; d == nil || len(d.live) == 0 || secure && (!p.overlay || p.ram == nil) || b.machine.dirs[id] == nil {
		b.t.Errorf("domain %+v, clean point %+v, %d files", d, p, len(b.machine.dirs[id]))
	}
	for _, promise := range b.machine.broken {
		b.t.Error(promise)
	}
}

// TestLostSight: libvirt says that a machine is off, or gone, which the kernel says has its disks open. It is held and closed,
// and neither called off nor robbed of what it runs on; once its process is ended it can be stopped.
func TestLostSight(t *testing.T) {
	for l, how := range map[lost]string{asOff: "off", asGone: "gone"} {
		for _, mode := range []daemon.Mode{daemon.Maintenance, daemon.Secure} {
			t.Run(fmt.Sprintf("%s in %s", how, mode), func(t *testing.T) {
				b := newBench(t, nil)
				id := b.launched()
				if mode == daemon.Secure {
					b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
				}
				b.losing(id, l)
				b.until(func() bool { return b.show(id).State != daemon.Running })
				b.idle()
				if c := b.show(id); c.State != daemon.Failed || c.Mode != mode || !strings.Contains(c.Cause, "process 1 has the capsule's") || !strings.Contains(c.Cause, "end it") {
					t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
				}
				b.kept(id, mode == daemon.Secure)
				verbs := []verb{b.StopCapsule}
				if mode == daemon.Secure { // it has a clean point to go back to
					verbs = []verb{b.ResumeCapsule, b.StopCapsule}
				}
				for _, verb := range verbs {
					if op := b.wait(b.free(verb, root, id)); op.Code != daemon.Conflict || op.Step != "destroy" || !strings.Contains(op.Cause, "process 1 has") {
						t.Errorf("%s: %s at %s: %s", op.Kind, op.State, op.Step, op.Cause)
					}
					b.kept(id, mode == daemon.Secure)
				}
				b.machine.over(id, domain.ReasonNone) // somebody kills it
				b.succeed(b.free(b.StopCapsule, root, id))
				b.machine.mu.Lock()
				delete(b.machine.lost, domain.ID(id))
				b.machine.mu.Unlock()
				b.settled()
				b.succeed(b.LaunchCapsule(t.Context(), alice, id))
				b.settled()
			})
		}
	}
}

// TestLostSightAtDelete: a deletion erases nothing under a process that libvirt does not know of. It is done once that has ended.
func TestLostSightAtDelete(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.mu.Lock()
	b.machine.lost[domain.ID(id)] = asGone
	b.machine.mu.Unlock()
	if op := b.wait(b.DeleteCapsule(t.Context(), alice, id)); op.Code != daemon.Conflict || op.Step != "destroy" {
		t.Errorf("%s at %s: %s", op.State, op.Step, op.Cause)
	}
	b.kept(id, true)
	b.machine.mu.Lock()
	delete(b.machine.domains, domain.ID(id))
	b.machine.mu.Unlock()
	b.until(func() bool { // the reconciler tries again
		b.machine.events <- domain.Event{ID: domain.ID(id)}
		b.idle()
		return len(b.states()) == 0
	})
	b.settled()
}

// TestLostSightAtLaunch: a machine that runs on the disk of a capsule which is off by record and by libvirt is found before
// another is started on it.
func TestLostSightAtLaunch(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.machine.mu.Lock()
	b.machine.ends[domain.ID(id)] = 1 << 30
	b.machine.mu.Unlock()
	if op := b.wait(b.LaunchCapsule(t.Context(), alice, id)); op.Code != daemon.Conflict || op.Step != "forget" {
		t.Errorf("%s at %s: %s", op.State, op.Step, op.Cause)
	}
	if n := b.called("Start"); n > 0 {
		t.Error("it was started")
	}
}

// TestSlowEnd: a process that libvirt calls ended and the kernel does not yet is waited for.
func TestSlowEnd(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	b.machine.ends[domain.ID(id)] = 3
	b.machine.mu.Unlock()
	b.machine.over(id, domain.ReasonShutdown)
	b.machine.events <- domain.Event{ID: domain.ID(id)}
	b.until(func() bool { return b.show(id).State == daemon.Shutdown })
	b.settled()
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.mu.Lock()
	b.machine.ends[domain.ID(id)] = 3
	b.machine.mu.Unlock()
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.settled()
}
