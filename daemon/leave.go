package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/imagestore"
)

// The steps out of secure mode, and what forgets it.

// flush asks the guest to write back what it has not written to its volumes yet: its process is about to be ended. What
// it writes to its root disk is discarded anyway.
func (a *act) flush(ctx context.Context) error {
	o, err := a.d.domains.ObserveOne(ctx, a.id())
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	if o.State != domain.Running {
		a.say("nothing runs")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.d.opt.FlushWait)
	defer cancel()
	// How many file systems it names is the guest's to choose, and so a way out for data: it is told to nobody.
	if _, err := a.d.domains.Freeze(ctx, a.id()); err != nil {
		a.say("the guest was not flushed: %s", guestWords(err))
		return nil
	}
	a.say("the guest says that its file systems are flushed")
	return nil
}

// discard destroys what secure mode wrote: the overlay, and what was printed, by the guest on its serial line and by QEMU of
// what the guest did. The next start
// of the machine has another generation id (vmgenid): its history has forked.
func (a *act) discard(ctx context.Context) error {
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	if a.capsule.CleanStamp != "" && there.Stamp != a.capsule.CleanStamp {
		return errorf(Conflict, "the root disk was written to since the clean point (%s, was %s): stop the capsule, and it starts from its disk",
			there.Stamp, a.capsule.CleanStamp)
	}
	if err := errors.Join(a.d.files.DropOverlay(ctx, a.capsule.ID), a.dropLogs(ctx)); err != nil {
		return err
	}
	a.capsule.Generation = uuid.NewString()
	return a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.PutGeneration(a.capsule.ID, a.capsule.Generation) })
}

// defineAnew is define with another password for the console, if the operator wants that: who looked on in secure mode need
// not be who may now.
func (a *act) defineAnew(ctx context.Context) error {
	if a.d.opt.RotatePassword {
		if err := a.putPassword(ctx, newPassword()); err != nil {
			return err
		}
	}
	return a.define(ctx)
}

// restore starts the machine at its clean point, standing still. One that an earlier attempt restored has never run,
// and is restored again.
func (a *act) restore(ctx context.Context) error {
	if err := a.destroy(ctx); err != nil {
		return err
	}
	seen, err := a.d.domains.Inspect(ctx, a.id())
	if err != nil {
		return err
	}
	if got, want := serials(seen.Defined), attached[Maintenance]; !slices.Equal(got, want) {
		return fmt.Errorf("daemon: the definition of capsule %s has the disks %v, and should have %v", a.capsule.ID, got, want)
	}
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	if !there.HaveRAM {
		return errorf(Conflict, "there is no clean point to go back to: stop the capsule, and it starts from its disk")
	}
	files, err := a.d.files.Files(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	spec, err := a.d.spec(a.capsule, Maintenance, files)
	if err != nil {
		return err
	}
	return a.d.domains.Restore(ctx, spec, there.RAM)
}

// release gives the clean point up: from here on the machine may run, and a restore would break its disk. The record
// goes first: a file that no record names is only room.
func (a *act) release(ctx context.Context) error {
	if err := a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.PutCleanPoint(a.capsule.ID, "", "") }); err != nil {
		return err
	}
	a.capsule.CleanPoint, a.capsule.CleanStamp = "", ""
	return a.d.files.DropRAM(ctx, a.capsule.ID)
}

// restored says that leave has come past its last proof, and past the clean point.
func (a *act) restored() bool {
	at := func(name string) int {
		return slices.IndexFunc(a.proc.steps, func(s step) bool { return s.name == name })
	}
	return at(a.op.Step) > at("release")
}

// unpause lets the machine run, once everything was proved under the policy that it will run under.
func (a *act) unpause(ctx context.Context) error {
	mode := a.capsule.Mode
	if a.proc.kind == opLeave {
		mode = Maintenance
	}
	c := a.as(mode)
	if err := a.verify(ctx, c, inForce(c)); err != nil {
		return err
	}
	if err := a.d.domains.Quiet(ctx, a.id(), mode == Secure); err != nil {
		return err
	}
	return a.d.domains.Resume(ctx, a.id())
}

// thaw lets a guest write again that was flushed for a way out which failed before its process was ended.
func (a *act) thaw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.d.opt.FlushWait)
	defer cancel()
	if _, err := a.d.domains.Thaw(ctx, a.id()); err != nil {
		a.say("the guest was not asked to write again: %s", guestWords(err))
	}
	return nil
}

// setClock tells the guest the time, which stood still for it.
func (a *act) setClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.d.opt.FlushWait)
	defer cancel()
	if err := a.d.domains.SetClock(ctx, a.id(), time.Now()); err != nil {
		text := fmt.Sprintf("the guest's clock was not set (%s)", guestWords(err))
		a.reserve(text)
		a.say("%s", text)
	}
	return nil
}

// forget destroys what secure mode left, when nothing runs: the overlay, the RAM of the clean point, the logs. In a
// capsule that was not there it finds nothing.
func (a *act) forget(ctx context.Context) error {
	o, err := a.d.domains.ObserveOne(ctx, a.id())
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	if o.State == domain.Running || o.State == domain.Paused {
		return nil // a launch that is taken up: it forgot before it started
	}
	if err := a.d.ended(ctx, a.capsule.ID); err != nil {
		return err
	}
	there, err := a.d.files.CleanPoint(ctx, a.capsule.ID)
	if err != nil && !errors.Is(err, imagestore.ErrNotFound) {
		return err
	}
	// The files know it too: the records may be older than the visit.
	secure := a.capsule.Mode == Secure || a.capsule.CleanPoint != "" || there.HaveOverlay || there.HaveRAM
	quiet := a.d.domains.Quiet(ctx, a.id(), false)
	if errors.Is(quiet, domain.ErrNotFound) {
		quiet = nil
	}
	if secure { // before the files, by which a visit is known that no record names
		if err := a.dropLogs(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(quiet, a.forgetFiles(ctx)); err != nil || !secure {
		return err
	}
	a.capsule.Generation = uuid.NewString()
	err = a.d.store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.PutCleanPoint(a.capsule.ID, "", ""), tx.PutGeneration(a.capsule.ID, a.capsule.Generation), tx.PutReview(a.capsule.ID, false))
	})
	if err != nil {
		return err
	}
	if _, err := a.d.domains.ObserveOne(ctx, a.id()); errors.Is(err, domain.ErrNotFound) {
		return nil
	}
	return a.define(ctx)
}

func (a *act) forgetFiles(ctx context.Context) error {
	return errors.Join(a.d.files.DropOverlay(ctx, a.capsule.ID), a.d.files.DropRAM(ctx, a.capsule.ID))
}

func (a *act) dropLogs(ctx context.Context) error {
	return errors.Join(a.d.files.DropSerialLog(ctx, a.capsule.ID), a.d.domains.DropLog(ctx, a.capsule.Key))
}
