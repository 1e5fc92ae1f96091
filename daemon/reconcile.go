package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
)

// look asks the reconciler to look at one capsule, or with "" at everything. It never blocks: when too much is asked
// for at once, the next full pass sees to it.
func (d *Daemon) look(id string) {
	select {
	case d.dirty <- id:
	default:
	}
}

// reconcileLoop serves libvirt's events, the wishes of look and the timer until ctx ends.
func (d *Daemon) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(d.opt.ReconcileEvery)
	defer tick.Stop()
	events := d.hyper.Events()
	for {
		id := ""
		select {
		case <-ctx.Done():
			return
		case e, open := <-events:
			if !open {
				events = nil // the connection is being closed for good
				continue
			}
			id = string(e.ID)
		case id = <-d.dirty:
		case <-tick.C:
		}
		if id != "" {
			d.complain(ctx, "capsule "+id, d.reconcile(ctx, id))
			continue
		}
		err := d.converge(ctx)
		d.complain(ctx, "full pass", err)
		d.mu.Lock()
		if d.amiss = ""; err != nil {
			d.amiss = err.Error()
		}
		d.mu.Unlock()
	}
}

// every does something again and again until ctx ends.
func (d *Daemon) every(ctx context.Context, period time.Duration, what string, do func(context.Context) error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.complain(ctx, what, do(ctx))
		}
	}
}

// complain logs what will be tried again.
func (d *Daemon) complain(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "not reconciled, will try again", slog.String("what", what), slog.String("error", err.Error()))
	}
}

// failure is when a capsule may be tried again by the reconciler whose last operation failed.
type failure struct {
	next  time.Time
	pause time.Duration
	again bool // it will be looked at then
}

// remember notes how an operation on a capsule ended: after each failure the reconciler waits twice as long, up to
// an hour, before it begins one by itself.
func (d *Daemon) remember(id string, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !failed {
		delete(d.failures, id)
		return
	}
	pause := min(max(2*d.failures[id].pause, time.Second), time.Hour)
	d.failures[id] = failure{next: time.Now().Add(pause), pause: pause}
}

// tooSoon says that a capsule is still left alone after a failure. It is looked at again when that is over.
func (d *Daemon) tooSoon(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[id]
	left := time.Until(f.next)
	if left > 0 && !f.again {
		f.again = true
		d.failures[id] = f
		time.AfterFunc(left, func() { d.look(id) })
	}
	return left > 0
}

// verdict is what the reconciler makes of one capsule: the operation that brings its record and its domain
// together ("" when they are), and why.
type verdict struct {
	kind  string
	cause string
}

// ranHeld comes before the cause of a hold. Somebody resumed the domain, or it never stood still: when an operation failed it
// is held from that moment on, and paused by this.
const ranHeld = "its domain ran while it was held, and was paused; " + heldFor

// heldFor comes before what a capsule was held for in the first place, where something happened to it since.
const heldFor = "it is held for: "

// origin is what a capsule was held for in the first place. However often something happens to one, its cause grows no longer.
func origin(cause string) string {
	if i := strings.LastIndex(cause, heldFor); i >= 0 {
		return cause[i+len(heldFor):]
	}
	return cause
}

// judge compares a record with what libvirt says. It is pure; present is false when libvirt has no such domain.
func judge(c store.Capsule, o domain.Observed, present bool) verdict {
	state := c.State
	runs := present && (o.State == domain.Running || o.State == domain.Paused)
	switch {
	case state == DeleteError:
		return verdict{kind: opDelete}
	case held(c):
		if present && o.State == domain.Running {
			return verdict{opHold, ranHeld + origin(c.Cause)}
		}
		return verdict{}
	case (state == Shutdown || state == Failed) && runs:
		return verdict{opEvict, "its domain was running outside capsuled's control, and was ended"}
	case state != Running || runs || present && o.State == domain.Unknown:
		return verdict{}
	case !present:
		return verdict{opCrash, "its domain is gone from libvirt"}
	}
	switch o.Reason {
	case domain.ReasonShutdown:
		return verdict{kind: opPoweroff}
	case domain.ReasonCrashed, domain.ReasonFailed:
		more := "libvirt's log of domain " + o.Name + " says more"
		if c.Mode == Secure {
			more = "what it printed is gone with its visit to secure mode"
		}
		return verdict{opCrash, fmt.Sprintf("its QEMU process died (libvirt says %q); %s", o.Reason, more)}
	case domain.ReasonDestroyed:
		return verdict{opPoweroff, "its domain was ended through libvirt by someone else"}
	}
	return verdict{opPoweroff, "its domain was found off: the host or libvirt was restarted"}
}

// reconcile looks at one capsule, and begins what brings its record and its domain together. An operation under way is
// left alone: the capsule is looked at again when it ends.
func (d *Daemon) reconcile(ctx context.Context, id string) error {
	// The record first: an observation that is older than the record says nothing of it.
	var c store.Capsule
	known := d.store.View(ctx, func(tx *store.Tx) (err error) { c, err = tx.Capsule(id); return err })
	if known != nil && !errors.Is(known, store.ErrNotFound) {
		return known
	}
	o, err := d.domains.ObserveOne(ctx, domain.ID(id))
	present := err == nil
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	if known != nil {
		_, err := d.reconcileStray(ctx, id, o, present)
		return err
	}
	v := judge(c, o, present)
	if v.kind == "" || v.kind != opHold && d.tooSoon(c.ID) { // what runs against a hold is not waited for
		return nil
	}
	if v.kind == opPoweroff || v.kind == opCrash {
		if err := d.ended(ctx, c.ID); err != nil {
			e := classify(err)
			if e.Code != Conflict {
				return err
			}
			v = verdict{opHold, cmp.Or(v.cause, "its domain is off") + ": " + e.Message}
		}
	}
	argument := ""
	if v.cause != "" {
		argument = encode(reason{v.cause})
	}
	_, err = d.begin(ctx, itself, v.kind, c.ID, argument, c.Version)
	if e := classify(err); e != nil && (e.Code == Busy || e.Code == Conflict) {
		return nil // it moved meanwhile, and will be looked at again
	} else if e != nil {
		return e
	}
	d.log.LogAttrs(ctx, slog.LevelWarn, "capsule is not as recorded", slog.String("capsule", c.ID), slog.String("state", string(c.State)),
		slog.String("operation", v.kind), slog.String("cause", v.cause))
	return nil
}

// reconcileStray ends a domain whose capsule was deleted. One that no record ever named is not ours to end, for it may
// be that the records are an old backup: it is a stranger, and closed by the firewall.
func (d *Daemon) reconcileStray(ctx context.Context, record string, o domain.Observed, present bool) (stranger bool, err error) {
	if !present || o.Record != record {
		return false, nil
	}
	ever, lives := false, false
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) { ever, lives, err = tx.CapsuleWas(record); return err }); err != nil || lives {
		return false, err
	}
	if !ever {
		d.log.LogAttrs(ctx, slog.LevelError, "a domain bears our mark that no record ever named; it is left alone, and closed: are these the right records?",
			slog.String("domain", o.Name), slog.String("record", record))
		return true, nil
	}
	return false, d.end(ctx, o.ID, "domain of a deleted capsule")
}

// end takes a domain away that no capsule has any more.
func (d *Daemon) end(ctx context.Context, id domain.ID, why string) error {
	err := d.domains.Destroy(ctx, id)
	if err == nil {
		err = d.domains.Undefine(ctx, id)
	}
	if err != nil {
		return err
	}
	d.log.LogAttrs(ctx, slog.LevelWarn, "domain ended", slog.String("domain", string(id)), slog.String("why", why))
	return d.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Audit(auditRow(itself.GUID, itself.From, "", "end-domain", string(id), "succeeded", why))
	})
}

// converge is the full pass: firewall, network and every capsule, then the upkeep that nothing else waits for. The
// error says what is amiss on the host; the trouble of one capsule or of the upkeep is logged.
func (d *Daemon) converge(ctx context.Context) error {
	// A bridge that is gone is trouble for the firewall, and libvirt's to make anew.
	fence := d.mendFence(ctx)
	if err := d.hyper.Connected(); err != nil {
		return errors.Join(fence, err)
	}
	if err := d.hyper.EnsureNetwork(ctx, d.opt.Network); err != nil {
		return err
	}
	if err := d.fences.GuardBridge(ctx); err != nil {
		return err
	}
	if fence != nil {
		if err := d.mendFence(ctx); err != nil {
			return err
		}
	}
	// Observed before the records are read: what is observed then has its record already.
	seen, err := d.domains.Observe(ctx)
	if err != nil {
		return err
	}
	d.holdNoted(ctx)
	var capsules []store.Capsule
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) { capsules, err = tx.Capsules(); return err }); err != nil {
		return err
	}
	known := make(map[domain.ID]bool, len(capsules))
	for _, c := range capsules {
		id := domain.ID(c.ID)
		known[id] = true
		o, present := seen[id]
		// What was seen in the crowd may be older than the record: what is not as recorded is looked at once more.
		if judge(c, o, present).kind != "" {
			d.complain(ctx, "capsule "+c.ID, d.reconcile(ctx, c.ID))
		}
		if c.State == Running && c.Mode == Maintenance && d.dataNear(ctx, c) {
			d.hold(ctx, c, "it is in maintenance mode by its record, and a process has its volumes open, or its overlay of secure mode")
		}
		if c.Mode == Secure && present { // a connection to libvirt that is new knows nothing of it
			d.complain(ctx, "figures of capsule "+c.ID, d.domains.Quiet(ctx, id, true))
		}
		if c.State == Failed && !c.Provisioned && present {
			d.complain(ctx, "capsule "+c.ID, d.end(ctx, id, "domain of a creation that failed"))
		}
	}
	strangers := 0
	for id, o := range seen {
		if !known[id] {
			stranger, err := d.reconcileStray(ctx, string(id), o, true)
			d.complain(ctx, "domain "+o.Name, err)
			if stranger {
				strangers++
			}
		}
	}
	d.metrics.unexplained.WithLabelValues("domain").Set(float64(strangers))
	d.complain(ctx, "record of the policies", d.notePoliciesRead(ctx))
	d.complain(ctx, "leases", d.mendLeases(ctx))
	d.complain(ctx, "sweep", d.sweep(ctx))
	d.complain(ctx, "volume templates", d.prepareTemplates(ctx)) // the sweep may have made room for them
	if counted := d.refusals.over(time.Now()); len(counted) > 0 {
		d.complain(ctx, "counted refusals", d.store.Update(ctx, func(tx *store.Tx) (err error) {
			for actor, n := range counted {
				err = errors.Join(err, tx.Audit(countedRow(actor, n)))
			}
			return err
		}))
	}
	d.complain(ctx, "old operations", d.store.Update(ctx, func(tx *store.Tx) error {
		return tx.PruneOperations(time.Now().Add(-operationsKept))
	}))
	d.metrics.reconciled.SetToCurrentTime()
	return nil
}

// prepareTemplates makes those templates of volumes that are missing. A host that cannot have them, as when its disk is
// full, creates no capsule, and goes on with all that there are.
func (d *Daemon) prepareTemplates(ctx context.Context) error {
	err := d.files.Prepare(ctx, d.volumes(d.opt.VolumeGB, d.opt.SpoolGB))
	d.mu.Lock()
	d.bare = err
	d.mu.Unlock()
	return err
}

// operationsKept is how long ended operations can be looked up; the audit trail keeps what they did for ever.
const operationsKept = 30 * 24 * time.Hour

// refence applies the bindings of every capsule that has one. What the records do not name is closed, and so is who has
// data attached against its record. When the records cannot be read, the kernel gets what it had: no rules would be worse.
func (d *Daemon) refence(ctx context.Context) error {
	if err := d.fenceMu.take(ctx); err != nil {
		return err
	}
	defer d.fenceMu.release()
	return d.refenceLocked(ctx)
}

// refenceLocked is refence for who holds fenceMu.
func (d *Daemon) refenceLocked(ctx context.Context) error {
	var capsules []store.Capsule
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) { capsules, err = tx.Capsules(); return err }); err != nil {
		return errors.Join(err, d.fences.Reapply(ctx))
	}
	var all []firewall.Binding
	for _, c := range capsules {
		if !fenced[c.State] || d.unfenced[c.ID] {
			continue
		}
		policy, opened := d.opened[c.ID]
		switch {
		case c.State == Running && d.noted(c.ID): // though fenceMu may not have been had to say so in opened
			policy = firewall.Closed
		case opened:
		case c.State == ShutdownPending: // it may have been held; the stop of one that was not says so in opened
			policy = firewall.Closed
		default:
			policy = inForce(c)
		}
		// The records may be a backup that is older than what runs.
		if !d.fit(policy) && d.dataNear(ctx, c) {
			policy = firewall.Closed
		}
		b, err := binding(c, policy)
		if err != nil {
			return err
		}
		all = append(all, b)
	}
	return d.fences.Apply(ctx, all)
}

// mendLeases adds the leases that libvirt lost and drops those that no capsule holds.
func (d *Daemon) mendLeases(ctx context.Context) error {
	d.leaseMu.Lock()
	defer d.leaseMu.Unlock()
	network := d.opt.Network.Name
	have, err := d.hyper.Leases(ctx, network)
	if err != nil {
		return err
	}
	var capsules []store.Capsule
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) { capsules, err = tx.Capsules(); return err }); err != nil {
		return err
	}
	there, held := map[string]string{}, map[string]bool{} // by MAC
	for _, l := range have {
		there[l.MAC.String()] = l.IP.String()
	}
	var errs []error
	for _, c := range capsules {
		held[c.MAC] = true
		if !leased[c.State] {
			continue
		}
		l, err := lease(c)
		if err == nil && there[c.MAC] != c.Address {
			err = d.hyper.PutLease(ctx, network, l)
		}
		errs = append(errs, err)
	}
	for _, l := range have {
		if !held[l.MAC.String()] {
			errs = append(errs, d.hyper.DropLease(ctx, network, l.MAC))
		}
	}
	return errors.Join(errs...)
}
