package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
)

// watchFence restores what others change in the firewall, whatever else the daemon waits for: as soon as the kernel
// tells of a change, and every second in case it does not. While nobody changes a rule that asks for one number.
func (d *Daemon) watchFence(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	changes := d.fences.Changes(ctx)
	said, since := "", time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-changes:
			if !open {
				changes = nil
				continue
			}
		case <-tick.C:
		}
		if since.IsZero() {
			since = time.Now()
		}
		err := d.mendInTime(ctx, since.Add(mendLimit))
		if err == nil {
			said, since = "", time.Time{}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			d.complain(ctx, "firewall", err)
		}
		if time.Since(since) >= mendLimit {
			d.holdSecure(ctx, "the firewall cannot be restored: "+classify(err).Message)
		}
	}
}

// mendInTime mends the firewall. Once late has passed it holds who depends on it, whatever the mending waits for then:
// it may be one of many, and what it calls need not look at its context.
func (d *Daemon) mendInTime(ctx context.Context, late time.Time) error {
	mended := make(chan error, 1)
	d.acts.Go(func() { mended <- within(ctx, mendLimit, d.mendFence) })
	alarm := time.NewTimer(max(time.Until(late), time.Second)) // a second, where they are held: it may succeed this time
	defer alarm.Stop()
	for {
		select {
		case err := <-mended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-alarm.C:
			d.holdSecure(ctx, "the firewall cannot be restored: it does not answer")
			alarm.Reset(mendLimit)
		}
	}
}

const (
	// mendLimit is how long rules may be missing, refused or hanging, before the capsules that depend on them are held.
	mendLimit = 3 * time.Second
	// unmendable is how often in a row the verifier cannot look at a capsule before it is held.
	unmendable = 3
)

// mendFence restores what others changed, and leaves an audit row of it. What it could not restore is counted, logged and
// audited once, and again when it has changed.
func (d *Daemon) mendFence(ctx context.Context) error {
	if err := d.mending.take(ctx); err != nil {
		return err
	}
	defer d.mending.release()
	drift, err := d.fences.Verify(ctx)
	if err != nil {
		return err
	}
	told := clipList(drift)
	news := told != d.drift
	d.drift = told
	if len(drift) == 0 {
		return nil
	}
	if news {
		d.log.LogAttrs(ctx, slog.LevelWarn, "firewall differs from the records, restoring it", slog.Any("differences", drift))
		d.metrics.drift.WithLabelValues("rules").Inc()
	}
	// Rules, and what the fence needs of the kernel besides: a bridge that was made anew has its settings anew.
	err, outcome := errors.Join(d.refence(ctx), d.fences.GuardBridge(ctx)), "failed"
	if err == nil {
		d.drift, outcome = "", "succeeded" // the same again is news
	}
	if !news {
		return err
	}
	row := auditRow(itself.GUID, itself.From, "", "restore-firewall", "", outcome, told)
	d.mu.Lock()
	base := d.base // ctx ends when the firewall is mended, or has taken too long
	d.mu.Unlock()
	d.acts.Go(func() { // the firewall does not wait for the disk
		d.complain(base, "audit of the firewall", d.store.Update(base, func(tx *store.Tx) error { return tx.Audit(row) }))
	})
	return err
}

// clipList is a list that is short enough for an audit row.
func clipList(list []string) string {
	const most = 1000
	s := strings.Join(list, "; ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// secured reads the capsules that are in secure mode with nothing under way, and those that are on their way, or held.
func (d *Daemon) secured(ctx context.Context) (settled, others []store.Capsule, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Capsules()
		for _, c := range all {
			switch {
			case c.State == Running && c.Mode == Secure:
				settled = append(settled, c)
			case c.Mode == Secure, c.State == SwitchToSecurePending:
				others = append(others, c)
			}
		}
		return err
	})
	return settled, others, err
}

// hold begins to close and pause a capsule. It must still be as it was when it was looked at: else it has moved, and nothing
// is done.
func (d *Daemon) hold(ctx context.Context, c store.Capsule, cause string) (moved bool) {
	_, err := d.begin(ctx, itself, opHold, c.ID, encode(reason{cause}), c.Version)
	if e := classify(err); e != nil {
		if e.Code == Busy || e.Code == Conflict {
			return true
		}
		d.complain(ctx, "hold of capsule "+c.ID, errors.Join(err, d.closeNow(ctx, c, cause)))
		return false
	}
	d.log.LogAttrs(ctx, slog.LevelError, "capsule is closed and paused: it cannot be proved safe", slog.String("capsule", c.ID), slog.String("cause", cause))
	return false
}

// closeNow closes and pauses a capsule whose hold cannot be written down, as on a disk that is full: a guest can fill it,
// and must not win by that. It is noted first, so that whoever changes rules keeps it closed, and it is held once that can be
// written down (holdNoted), though neither rules nor domain can be had now, and though the trouble is over by then.
func (d *Daemon) closeNow(ctx context.Context, c store.Capsule, cause string) error {
	d.mu.Lock()
	d.unheld[c.ID] = cmp.Or(d.unheld[c.ID], cause)
	d.mu.Unlock()
	b, err := binding(c, firewall.Closed)
	if err != nil {
		return err
	}
	d.complain(ctx, "link of capsule "+c.ID, d.fences.Shut(b.Tap))  // at once, whoever changes rules meanwhile
	err = within(ctx, closeLimit, func(ctx context.Context) error { // a firewall that hangs does not keep it running
		if err := d.fenceMu.take(ctx); err != nil {
			return err
		}
		defer d.fenceMu.release()
		d.opened[c.ID] = firewall.Closed
		return d.fences.Put(ctx, b)
	})
	return errors.Join(err, d.domains.Pause(ctx, domain.ID(c.ID)))
}

// noted says that a capsule could not be proved safe, and that its hold could not be written down yet. While its record does
// not say RUNNING that means nothing: an operation sees to it, or has.
func (d *Daemon) noted(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unheld[id] != ""
}

// unnote forgets that a capsule is to be held: it is gone, or an operation decides from now on what it is under.
func (d *Daemon) unnote(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.unheld, id)
}

// holdNoted begins the holds that could not be written down before.
func (d *Daemon) holdNoted(ctx context.Context) {
	d.mu.Lock()
	causes := maps.Clone(d.unheld)
	d.mu.Unlock()
	for id, cause := range causes {
		var c store.Capsule
		err := d.store.View(ctx, func(tx *store.Tx) (err error) { c, err = tx.Capsule(id); return err })
		switch {
		case errors.Is(err, store.ErrNotFound):
			d.unnote(id)
		case err != nil:
			d.complain(ctx, "hold of capsule "+id, err)
		case c.State == Running && d.noted(id):
			d.hold(ctx, c, cause) // where it moves meanwhile, the next round sees
		}
	}
}

// holdSecure takes the links of all capsules down that are in secure mode, or on their way there or back, which waits for
// nobody, and then holds those that are in it and there. One that is on its way has an operation that decides what becomes of it;
// until then it does not run on with data near. Links that should be up again come up with the rules.
func (d *Daemon) holdSecure(ctx context.Context, cause string) {
	settled, others, err := d.secured(ctx)
	d.complain(ctx, "capsules in secure mode", err)
	for _, c := range slices.Concat(settled, others) {
		d.complain(ctx, "link of capsule "+c.ID, d.fences.Shut(c.Key))
	}
	for _, c := range settled {
		if !d.absent(ctx, c) {
			d.hold(ctx, c, cause)
		}
	}
	for _, c := range others {
		if held(c) || !d.dataNear(ctx, c) {
			continue
		}
		o, err := d.domains.ObserveOne(ctx, domain.ID(c.ID))
		if err == nil && o.State != domain.Running {
			continue
		}
		d.log.LogAttrs(ctx, slog.LevelError, "capsule is paused on its way between the modes", slog.String("capsule", c.ID), slog.String("cause", cause))
		d.complain(ctx, "pause of capsule "+c.ID, d.domains.Pause(ctx, domain.ID(c.ID)))
	}
}

// absent says of a capsule that cannot be looked at, or whose rules cannot be restored, that there is nothing to pause: nobody
// can write to its overlay or its volumes, as when the host was restarted and libvirt is not there yet. Then its link goes
// down, and it is looked at again: held, it would have to be stopped by hand where its process is found gone.
func (d *Daemon) absent(ctx context.Context, c store.Capsule) bool {
	if d.dataNear(ctx, c) {
		return false
	}
	d.complain(ctx, "link of capsule "+c.ID, d.fences.Shut(c.Key))
	return true
}

// verdicts are what the verifier found of each capsule in secure mode, for the metrics: by tap. One that is held was not
// proved, until it is in secure mode again or out of it.
type verdicts struct {
	mu    sync.Mutex
	of    map[string]checked
	blind map[string]int // by id: how often in a row something could not be looked at

	known  []store.Capsule // that were in secure mode when the records were last read
	unread int             // how often in a row they could not be read since
}

type checked struct {
	proved bool
	at     time.Time // when it was proved last; zero for never
	denied denied
}

// lookLimit is how long the verifier waits for what libvirt and the kernel say of one capsule.
const lookLimit = 10 * time.Second

// verifyAll proves every capsule that is in secure mode, and holds one that fails.
func (d *Daemon) verifyAll(ctx context.Context) error {
	d.holdNoted(ctx)
	list, others, err := d.secured(ctx)
	if err != nil {
		return errors.Join(err, d.unread(ctx))
	}
	d.verdicts.mu.Lock()
	d.verdicts.known, d.verdicts.unread = list, 0
	d.verdicts.mu.Unlock()
	if len(list) > 0 { // what can be mended is no reason to stop a researcher
		d.complain(ctx, "firewall", within(ctx, mendLimit, d.mendFence))
	}
	// One reading of all rules costs hardly more than that of one capsule's.
	all, unread := map[string]firewall.Evidence(nil), error(nil)
	if len(list) > 1 {
		all, unread = d.fences.InspectAll(ctx)
	}
	rules := func(ctx context.Context, tap string) (firewall.Evidence, error) {
		if ev, ok := all[tap]; ok || unread != nil {
			return ev, unread
		}
		return d.fences.Inspect(ctx, tap)
	}
	found := map[string]checked{}
	for _, c := range list {
		if d.noted(c.ID) { // paused, and to be held, however well it looks by now
			d.verdicts.mu.Lock()
			was := d.verdicts.of[c.Key]
			d.verdicts.mu.Unlock()
			was.proved = false
			found[c.Key] = was
			continue
		}
		if v, known := d.verifyOne(ctx, c, rules); known {
			found[c.Key] = v
		}
	}
	d.verdicts.mu.Lock()
	for _, c := range others { // what failed is to be seen by whoever asks later, too
		if was, ok := d.verdicts.of[c.Key]; ok || held(c) {
			was.proved = was.proved && !held(c)
			found[c.Key] = was
		}
	}
	d.verdicts.of = found
	d.verdicts.mu.Unlock()
	return nil
}

// unread sees to the capsules in secure mode while the records cannot be read, as when they are damaged. What is not known is
// not unsafe at once; when it lasts they are closed and paused. They are held as soon as that can be written down.
func (d *Daemon) unread(ctx context.Context) error {
	d.verdicts.mu.Lock()
	d.verdicts.unread++
	known, times := d.verdicts.known, d.verdicts.unread
	d.verdicts.mu.Unlock()
	if times < unmendable {
		return nil
	}
	d.mu.Lock()
	acts := slices.Collect(maps.Values(d.live))
	d.mu.Unlock()
	busy := map[string]bool{} // an operation sees to them, and waits for the records itself
	for _, a := range acts {
		a.mu.Lock()
		busy[a.op.Target] = true
		a.mu.Unlock()
	}
	var errs []error
	for _, c := range known {
		if !busy[c.ID] {
			errs = append(errs, d.closeNow(ctx, c, "its record could not be read"))
		}
	}
	return errors.Join(errs...)
}

// verifyOne looks at one capsule and holds it if it fails. A look under which the record moved says nothing: then the verdict
// is the one before, if there is any.
func (d *Daemon) verifyOne(ctx context.Context, c store.Capsule, rules func(context.Context, string) (firewall.Evidence, error)) (verdict checked, known bool) {
	d.verdicts.mu.Lock()
	was, had := d.verdicts.of[c.Key]
	d.verdicts.mu.Unlock()
	looking, cancel := context.WithTimeout(ctx, lookLimit) // one that hangs must not keep the others from being looked at
	defer cancel()
	p := d.examineWith(looking, c, inForce(c), rules)
	if p.rulesAlone { // changed since they were mended: that is no reason to stop anybody unless it cannot be mended again
		d.complain(looking, "firewall", d.mendFence(looking))
		p = d.examine(looking, c, inForce(c))
	}
	blind, moved := 0, !p.Proved && d.moved(ctx, c)
	switch {
	case moved:
	case p.Proved:
		was.at = p.At
	case p.Unknown:
		d.verdicts.mu.Lock()
		blind = d.verdicts.blind[c.ID] + 1
		d.verdicts.mu.Unlock()
		if blind >= unmendable && (p.running || !d.absent(ctx, c)) {
			moved = d.hold(ctx, c, p.err("it cannot be looked at").Error())
		}
	case !p.running && !p.hasUnknown():
		d.look(c.ID) // it ended: that is not for the verifier to say
	case !p.running && d.absent(ctx, c): // libvirt does not say that it ended, and the kernel does
	default:
		moved = d.hold(ctx, c, p.err("it is not safe").Error())
	}
	d.verdicts.mu.Lock()
	d.verdicts.blind[c.ID] = blind
	if blind == 0 {
		delete(d.verdicts.blind, c.ID)
	}
	d.verdicts.mu.Unlock()
	if moved {
		return was, had
	}
	was.proved, was.denied = p.Proved, p.denied
	return was, true
}

func (p Proof) hasUnknown() bool {
	for _, c := range p.Checks {
		if c.Unknown {
			return true
		}
	}
	return false
}
