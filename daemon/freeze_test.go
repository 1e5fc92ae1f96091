package daemon_test

import (
	"context"
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

// halfway is libvirt that loses its client in a clean point: it has frozen the disk, and the RAM that it saved does not
// have its name yet. That is for the next client to give.
type halfway struct {
	*machine
	reached chan struct{}
	spoilt  bool    // the RAM is not to be used
	saved   *memory // the RAM without a name
}

func (h *halfway) Checkpoint(ctx context.Context, id domain.ID, cp domain.CleanPoint) error {
	h.mu.Lock()
	d, p := h.domains[id], h.points[id]
	switch {
	case h.saved != nil && h.spoilt:
		h.mu.Unlock()
		return domain.ErrUnusable
	case h.saved != nil:
		p.ram = h.saved
		h.mu.Unlock()
		return nil
	}
	h.saved = &memory{disk: d.written}
	d.live[0] = domain.Disk{Path: cp.Overlay, Format: "qcow2", Serial: "disk", Backing: &domain.BackingFile{Path: d.live[0].Path}}
	h.mu.Unlock()
	close(h.reached)
	<-ctx.Done()
	return ctx.Err()
}

// TestDeathHalfwayThroughCleanPoint: the daemon is killed when the disk is frozen and the RAM is saved under another name.
// The next one ends that, or goes back to maintenance mode; it attaches no data to what has no way back.
func TestDeathHalfwayThroughCleanPoint(t *testing.T) {
	for _, spoilt := range []bool{false, true} {
		h := &halfway{reached: make(chan struct{}), spoilt: spoilt}
		b := newBench(t, func(o *daemon.Options) { h.machine = o.Domains.(*machine); o.Domains = h })
		id := b.create(alice, b.image())
		b.succeed(b.LaunchCapsule(t.Context(), alice, id))
		op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
		if err != nil {
			t.Fatal(err)
		}
		<-h.reached
		b.kill()
		b.start()
		op = b.wait(op, nil)
		h.mu.Lock()
		attached := slices.Contains(h.calls, "Attach")
		h.mu.Unlock()
		if attached == spoilt || (op.State == daemon.OperationSucceeded) == spoilt {
			t.Errorf("RAM spoilt %t: data attached %t, %s: %s", spoilt, attached, op.State, op.Cause)
		}
		if spoilt { // the machine is off, and the record says so without waiting for a full pass
			b.until(func() bool { return b.show(id).State == daemon.Shutdown })
		}
		b.idle()
		b.settled()
	}
}

// carrying is libvirt that carries on with a clean point whose client was killed, and is through when somebody waits for it.
type carrying struct {
	*machine
	reached chan struct{}
	job     func() error
}

func (c *carrying) Checkpoint(ctx context.Context, id domain.ID, cp domain.CleanPoint) error {
	c.mu.Lock()
	first := c.job == nil
	if first {
		c.job = func() error { return c.machine.Checkpoint(context.WithoutCancel(ctx), id, cp) }
	}
	c.mu.Unlock()
	if !first {
		return c.machine.Checkpoint(ctx, id, cp)
	}
	close(c.reached)
	<-ctx.Done()
	return ctx.Err()
}

func (c *carrying) AwaitJob(ctx context.Context, id domain.ID) error {
	c.mu.Lock()
	job := c.job
	c.mu.Unlock()
	if job != nil {
		if err := job(); err != nil {
			return err
		}
	}
	return c.machine.AwaitJob(ctx, id)
}

// TestDeathDuringCleanPoint: the daemon is killed while libvirt saves the RAM. The next one looks when that is through: the
// overlay that libvirt is about to use is not made anew.
func TestDeathDuringCleanPoint(t *testing.T) {
	c := &carrying{reached: make(chan struct{})}
	b := newBench(t, func(o *daemon.Options) { c.machine = o.Domains.(*machine); o.Domains = c })
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	<-c.reached
	b.kill()
	b.start()
	if op = b.wait(op, nil); op.State != daemon.OperationSucceeded {
		t.Errorf("%s: %s", op.State, op.Cause)
	}
	if n := b.called("PrepareCleanPoint"); n != 1 {
		t.Errorf("the overlay was made %d times", n)
	}
	b.settled()
}
