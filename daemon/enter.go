package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
)

// The steps into secure mode, and what they share with those out of it (leave.go). Every one of them leaves the capsule
// closed, up to the one named "policy".

// entry is the argument of enter.
type entry struct {
	Review bool // under the policy for review
}

// shut closes the capsule in every layer, cuts what it has under way, and reads the rules back.
func (a *act) shut(ctx context.Context) error {
	a.count(ctx)
	if err := a.put(ctx, firewall.Closed); err != nil {
		return err
	}
	if _, err := a.d.fences.Cut(ctx, a.capsule.Key); err != nil {
		return err
	}
	after, err := a.d.fences.Inspect(ctx, a.capsule.Key)
	if err == nil && len(after.Differences) > 0 { // others changed it meanwhile: the watcher would mend it within a second
		if err = a.d.mendFence(ctx); err == nil {
			after, err = a.d.fences.Inspect(ctx, a.capsule.Key)
		}
	}
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(after.Differences, func(d string) bool { return d == after.PortDifference })
	if after.Policy != firewall.Closed || len(wrong) > 0 {
		return fmt.Errorf("daemon: capsule %s is not closed: the kernel says: %s", a.capsule.ID, strings.Join(wrong, "; "))
	}
	// Off the bridge it is closed. The way back to maintenance mode makes its tap anew.
	if after.PortDifference != "" && a.proc.kind != opLeave {
		return errorf(Conflict, "the capsule is cut off from its network (%s): put its tap back on the bridge, or stop and launch it", after.PortDifference)
	}
	if a.op.Cut == nil {
		a.say("connections cut, and nobody knows how many")
		return nil
	}
	a.say("%d connections cut", *a.op.Cut)
	return nil
}

// count notes how many connections there are to be cut, for the outcome or the next step's entry in the journal. Only
// before the first attempt to close can that be known: later ones, also after a restart, find what is left. It only counts:
// that it cannot is no reason not to close.
func (a *act) count(ctx context.Context) {
	if !a.fresh {
		return
	}
	a.fresh = false
	before, err := a.d.fences.Inspect(ctx, a.capsule.Key)
	if err != nil {
		a.d.complain(ctx, "connections of capsule "+a.capsule.ID, err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.op.Cut = &before.Flows
}

// shutAgain takes back what opened the capsule. Rules that cannot be changed now do not leave it running, nor keep what is
// undone next from ending it: whatever would let it run again looks at the rules for itself.
func (a *act) shutAgain(ctx context.Context) error {
	err := a.put(ctx, firewall.Closed)
	if err == nil {
		return nil
	}
	a.say("not closed yet: %v", classify(err).Message)
	return a.pause(ctx)
}

// reopen undoes shut: the capsule is in maintenance mode as it was before, which is looked at and not believed.
func (a *act) reopen(ctx context.Context) error {
	was := a.capsule
	was.State, was.Mode = Running, Maintenance
	p := a.d.examine(ctx, was, firewall.Closed)
	if running := p.running; running && !p.Proved && !p.failsOnly(portCheck) { // off the bridge its link stays down
		return p.err("it is not as it was in maintenance mode")
	}
	if err := a.put(ctx, policyMaintenance); err != nil {
		return err
	}
	if !p.running {
		return nil // it ended meanwhile; the reconciler will say so
	}
	if a.d.opt.RotatePassword { // the console may have one that was never written down
		a.d.complain(ctx, "console password of capsule "+a.capsule.ID, a.d.domains.SetPassword(ctx, a.id(), a.capsule.LoginPassword))
	}
	if err := a.d.domains.Quiet(ctx, a.id(), false); err != nil {
		return err
	}
	if err := a.d.domains.Resume(ctx, a.id()); err != nil {
		return err
	}
	if a.pointBefore == "" {
		return nil
	}
	return a.setClock(ctx) // it came from its clean point, where time stood still
}

// cutConsoles throws every viewer out: who looked on in maintenance mode need not be who may in secure mode.
func (a *act) cutConsoles(ctx context.Context) error {
	if a.d.opt.RotatePassword {
		password := newPassword()
		if err := a.d.domains.SetPassword(ctx, a.id(), password); err != nil {
			return err
		}
		if err := a.putPassword(ctx, password); err != nil {
			return err
		}
	}
	if !a.d.opt.CutConsoles || a.capsule.VNCPort == 0 {
		return nil
	}
	n, err := a.d.opt.Disconnect(ctx, uint16(a.capsule.VNCPort))
	a.say("%d viewers cut", n)
	return err
}

func newPassword() string { return rand.Text()[:MaxPassword] }

func (a *act) putPassword(ctx context.Context, password string) error {
	err := a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.PutPassword(a.capsule.ID, password) })
	if err == nil {
		a.capsule.LoginPassword = password
	}
	return err
}

// cleanPoint freezes disk and RAM as they are before any data is near. It is recorded at once, so that nothing takes
// another one later.
func (a *act) cleanPoint(ctx context.Context) error {
	a.d.births.RLock() // the RAM that is being saved is nobody's yet: it is not swept
	defer a.d.births.RUnlock()
	// Of an earlier attempt, which a restart cut short: it puts the overlay under the machine whenever it ends.
	if err := a.d.domains.AwaitJob(ctx, a.id()); err != nil && !errors.Is(err, domain.ErrConflict) && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	seen, err := a.d.domains.Inspect(ctx, a.id())
	if err != nil {
		return err
	}
	if seen.Live == nil {
		return errorf(Conflict, "the capsule's domain is not running any more")
	}
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	if rootOf(seen.Live) != there.Overlay {
		if a.capsule.CleanPoint != "" {
			return fmt.Errorf("daemon: capsule %s has left its overlay for %s", a.capsule.ID, rootOf(seen.Live))
		}
		if err := a.mayComeBack(ctx); err != nil {
			return err
		}
		if there, err = a.d.files.PrepareCleanPoint(ctx, a.capsule.ID, footprint(a.capsule.MemoryMB)); err != nil {
			return err
		}
	}
	if a.capsule.CleanPoint == "" {
		// Also on its overlay already: what an attempt began that was cut short is ended by this, and has no RAM before.
		err := a.d.domains.Checkpoint(ctx, a.id(), domain.CleanPoint{Disk: there.Disk.Path, Overlay: there.Overlay, RAM: there.RAM})
		if err != nil {
			return err
		}
		if there, err = a.d.files.CleanPoint(ctx, a.capsule.ID); err != nil {
			return err
		}
		a.capsule.CleanPoint, a.capsule.CleanStamp = uuid.NewString(), there.Stamp
		err = a.d.store.Update(ctx, func(tx *store.Tx) error {
			return tx.PutCleanPoint(a.capsule.ID, a.capsule.CleanPoint, a.capsule.CleanStamp)
		})
		if err != nil {
			return err
		}
	}
	// libvirt has put the overlay into what starts next.
	return a.define(ctx)
}

// mayComeBack refuses a machine that could not be restored from its clean point, while that costs nothing yet.
func (a *act) mayComeBack(ctx context.Context) error {
	if err := a.define(ctx); err != nil {
		return err
	}
	err := a.d.domains.Restorable(ctx, a.id())
	if errors.Is(err, domain.ErrConflict) {
		return &Error{Code: Conflict, Message: "the capsule runs on another machine than it would be restored on (an older version launched it): stop and launch it first", Err: err}
	}
	return err
}

// rootOf is the disk that a domain boots from; "" when it has none.
func rootOf(d *domain.Devices) string {
	if d == nil || len(d.Disks) == 0 {
		return ""
	}
	return d.Disks[0].Path
}

// rollBack undoes everything from the clean point on. Data may have been attached: then the process is ended, never
// asked to give it back, and the machine goes on from the clean point.
func (a *act) rollBack(ctx context.Context) error {
	seen, err := a.d.domains.Inspect(ctx, a.id())
	if err != nil {
		return err
	}
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	// libvirt may have died in the middle and not know of the overlay that QEMU writes to; the kernel does.
	writers, err := a.d.files.OpenBy(ctx, a.capsule.ID, overlayDisk)
	if err != nil {
		return err
	}
	onOverlay := len(writers) > 0 || seen.Live != nil && rootOf(seen.Live) == there.Overlay
	switch {
	case a.capsule.CleanPoint == "" && !onOverlay && (seen.Live == nil || len(seen.Live.Disks) == 1):
		return inTurn(ctx, a, (*act).define, (*act).forgetFiles) // it was never taken
	case !there.HaveRAM: // nothing to go back to: it is off, and starts from its disk
		return inTurn(ctx, a, (*act).destroy, (*act).discard, (*act).define, (*act).release)
	}
	return inTurn(ctx, a, (*act).destroy, (*act).discard, (*act).define, (*act).restore, (*act).verifyRestored, (*act).release)
}

func inTurn(ctx context.Context, a *act, steps ...func(*act, context.Context) error) error {
	for _, s := range steps {
		if err := s(a, ctx); err != nil {
			return err
		}
	}
	return nil
}

// attach gives the domain its volumes, and looks whether it has them. It must be on its overlay by now.
func (a *act) attach(ctx context.Context) error {
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	seen, err := a.d.domains.Inspect(ctx, a.id())
	if err != nil {
		return err
	}
	if a.capsule.CleanPoint == "" || rootOf(seen.Live) != there.Overlay {
		return fmt.Errorf("daemon: capsule %s is not on its overlay but on %q: no data is attached to it", a.capsule.ID, rootOf(seen.Live))
	}
	files, err := a.d.files.Files(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	// The figures that a guest gives about its memory are a way out (isolation contract, row 37).
	if err := a.d.domains.Quiet(ctx, a.id(), true); err != nil {
		return err
	}
	for _, name := range volumeNames {
		disk, err := diskOf(a.capsule, files, name)
		if err != nil {
			return err
		}
		if err := a.d.domains.Attach(ctx, a.id(), disk); err != nil {
			return err
		}
	}
	if seen, err = a.d.domains.Inspect(ctx, a.id()); err != nil {
		return err
	}
	if got, want := serials(seen.Live), attached[Secure]; !slices.Equal(got, want) {
		return fmt.Errorf("daemon: capsule %s has the disks %v, and should have %v", a.capsule.ID, got, want)
	}
	return nil
}

// serials names the disks of a domain.
func serials(d *domain.Devices) []string {
	var names []string
	if d != nil {
		for _, disk := range d.Disks {
			names = append(names, disk.Serial)
		}
	}
	return names
}

// mount asks the guest to mount its volumes. One that does not is no danger, and is told of.
func (a *act) mount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.d.opt.MountWait)
	defer cancel()
	var mounts []domain.Mount
	for _, name := range volumeNames {
		mounts = append(mounts, domain.Mount{Serial: name, Label: name, Path: mountPoints[name], Owner: a.capsule.ImageUser})
	}
	err := a.d.domains.GuestMount(ctx, a.id(), mounts)
	if err != nil {
		const text = "the guest did not mount its volumes: mount them from inside"
		a.reserve(text)
		a.say("%s (%s)", text, guestWords(err))
		return nil
	}
	a.say("the guest says that it has mounted %s and %s", mountPoints[secureVolume], mountPoints[releaseSpool])
	return nil
}

// guestWords says what a guest did with a request, in our words and not in the guest's.
func guestWords(err error) string {
	switch {
	case errors.Is(err, domain.ErrUnresponsive), errors.Is(err, context.DeadlineExceeded), errors.Is(err, domain.ErrUnavailable):
		return "its agent does not answer"
	case errors.Is(err, domain.ErrUnsupported):
		return "its agent does not know how"
	}
	return "it answered with an error"
}

// openSecure puts the capsule under its secure policy.
func (a *act) openSecure(ctx context.Context) error {
	why, err := argument[entry](a)
	if err != nil {
		return err
	}
	a.capsule.Review = why.Review
	if err := a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.PutReview(a.capsule.ID, why.Review) }); err != nil {
		return err
	}
	if err := a.d.domains.Quiet(ctx, a.id(), true); err != nil { // a restart has forgotten it
		return err
	}
	a.say("%s", securePolicy(a.capsule))
	return a.put(ctx, securePolicy(a.capsule))
}

func (a *act) openMaintenance(ctx context.Context) error {
	a.say("%s", policyMaintenance)
	return a.put(ctx, policyMaintenance)
}

// openOwn puts a held capsule under the policy of the mode that it is held in.
func (a *act) openOwn(ctx context.Context) error { return a.put(ctx, a.ownPolicy()) }

func (a *act) ownPolicy() string {
	settled := a.capsule
	settled.State = Running
	return inForce(settled)
}

// as is the capsule as its record will say, for the proof of it.
func (a *act) as(mode Mode) store.Capsule {
	c := a.capsule
	c.State, c.Mode = Running, mode
	return c
}

// verifySecure proves P1 to P3 before the record says that the capsule is in secure mode.
func (a *act) verifySecure(ctx context.Context) error {
	if err := a.verify(ctx, a.as(Secure), securePolicy(a.capsule)); err != nil {
		return err
	}
	o, err := a.d.domains.ObserveOne(ctx, a.id())
	if err == nil && o.State != domain.Running {
		err = errorf(Conflict, "the capsule's domain was paused meanwhile: its firewall could not be restored for a while, or the host's disk is full")
	}
	return err
}

// verifyRestored proves that what was restored has no data and nothing of secure mode, while it stands still and closed.
func (a *act) verifyRestored(ctx context.Context) error {
	return a.verify(ctx, a.as(Maintenance), firewall.Closed)
}

func (a *act) verifyShut(ctx context.Context) error {
	return a.verify(ctx, a.as(a.capsule.Mode), firewall.Closed)
}

func (a *act) verify(ctx context.Context, c store.Capsule, policy string) error {
	a.proof = a.d.examine(ctx, c, policy)
	if a.proof.rulesAlone { // changed by others meanwhile: that is no reason to go back unless it cannot be mended
		a.d.complain(ctx, "firewall", a.d.mendFence(ctx))
		a.proof = a.d.examine(ctx, c, policy)
	}
	if !a.proof.Proved {
		return a.proof.err("it could not be proved safe")
	}
	if !a.proof.running {
		return errorf(Conflict, "the capsule's domain is not running any more")
	}
	a.say("%d checks", len(a.proof.Checks))
	return nil
}

// tryShut closes a capsule that is being held if that can be done at once; the steps after it do not give up as soon.
func (a *act) tryShut(ctx context.Context) error {
	at, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	if err := a.put(at, firewall.Closed); err != nil {
		a.say("not closed yet: %v", classify(err).Message)
	}
	return nil
}

// closeLimit is how long a capsule that cannot be proved safe runs on while the firewall is waited for.
const closeLimit = 5 * time.Second

func (a *act) pause(ctx context.Context) error {
	err := a.d.domains.Pause(ctx, a.id())
	if errors.Is(err, domain.ErrNotFound) || errors.Is(err, domain.ErrConflict) {
		return nil // nothing runs
	}
	return err
}
