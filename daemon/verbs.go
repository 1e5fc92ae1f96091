package daemon

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
)

// LaunchCapsule starts a capsule that is shut down, in maintenance mode.
func (d *Daemon) LaunchCapsule(ctx context.Context, c Caller, id string) (Operation, error) {
	return d.ask(ctx, c, opLaunch, id)
}

// StopCapsule powers a running capsule off: the guest is asked first and has the grace to comply. On a capsule in
// ERROR it proves that nothing runs and makes it SHUTDOWN.
func (d *Daemon) StopCapsule(ctx context.Context, c Caller, id string) (Operation, error) {
	return d.ask(ctx, c, opStop, id)
}

// DeleteCapsule destroys a capsule with everything it holds. It disappears from every list at once; a running
// one is ended without asking the guest.
func (d *Daemon) DeleteCapsule(ctx context.Context, c Caller, id string) (Operation, error) {
	return d.ask(ctx, c, opDelete, id)
}

// ask begins an operation that a caller wants, and leaves an audit row of a refusal.
func (d *Daemon) ask(ctx context.Context, c Caller, kind, id string) (op Operation, err error) {
	defer d.refused(ctx, c, kind, id, &err)
	return d.askWith(ctx, c, kind, id, "")
}

func (d *Daemon) askWith(ctx context.Context, c Caller, kind, id, argument string) (op Operation, err error) {
	if c.GUID == "" {
		return op, errorf(Unauthorized, "who asks is not known")
	}
	if _, err := uuid.Parse(id); err != nil {
		return op, errorf(Invalid, "%q is not a capsule id: a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10 is", clip(id))
	}
	if err := d.accepting(); err != nil {
		return op, err
	}
	return d.begin(ctx, c, kind, id, argument, anyVersion)
}

// anyVersion is for who does not care which moves a record has made.
const anyVersion = 0

// begin writes the intent of an operation on a capsule and starts it. Who decided by an observation names the version
// of the record that was read before it: a record that has moved since is left alone (busy).
func (d *Daemon) begin(ctx context.Context, c Caller, kind, id, argument string, version int64) (Operation, error) {
	p, m := d.procedures[kind], moves[kind]
	var entry store.Operation
	err := d.store.Update(ctx, func(tx *store.Tx) error {
		capsule, err := d.may(tx, c, kind, id)
		if err != nil {
			return err
		}
		if err := leave(tx, capsule, kind, m); err != nil {
			return err
		}
		if version != anyVersion && version != capsule.Version {
			return store.ErrStale
		}
		if kind == opStop {
			argument = encode(stopping{Ran: capsule.State == Running})
		}
		if err := tx.MoveCapsule(id, m.from, m.pendingIn(capsule.Mode), capsule.Mode, capsule.Cause); err != nil {
			return err
		}
		entry = d.newOperation(p, c, id, capsule.Owner, argument)
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, kind, id, "accepted", "operation "+entry.ID)))
	})
	if err != nil {
		return Operation{}, classify(err)
	}
	d.start(entry)
	return public(entry, c), nil
}

// leave says whether a capsule may leave its state by an operation, and if not, why, in words for the caller.
func leave(tx *store.Tx, c store.Capsule, kind string, m move) error {
	open, err := tx.OpenOperation(c.ID)
	switch {
	case err == nil:
		return errorf(Busy, "capsule %s is busy: %s has been under way since %s (operation %s)", c.ID, open.Kind, open.Started.Format("15:04:05 MST"), open.ID)
	case !errors.Is(err, store.ErrNotFound):
		return err
	case !slices.Contains(m.from, c.State):
		return errorf(Conflict, "capsule %s is %s: %s needs it to be %s", c.ID, c.State, spoken(kind), either(m.from))
	case len(m.modes) > 0 && !slices.Contains(m.modes, c.Mode):
		return errorf(Conflict, "capsule %s is in mode %s: %s needs it to be in %s", c.ID, c.Mode, spoken(kind), eitherMode(m.modes))
	case kind == opStop && c.State == Failed && !c.Provisioned:
		return errorf(Conflict, "capsule %s was never made (%s): delete it and create another", c.ID, c.Cause)
	}
	return nil
}

// spokenKinds are what callers call the operations that they know by another name.
var spokenKinds = map[string]string{opEnter: "switch to secure", opLeave: "switch to maintenance", opReadmit: "resume"}

func spoken(kind string) string { return cmp.Or(spokenKinds[kind], kind) }

func either(states []State) string {
	s := ""
	for i, st := range states {
		if hidden[st] {
			continue
		}
		if i > 0 {
			s += " or "
		}
		s += string(st)
	}
	return s
}

func eitherMode(modes []Mode) string {
	words := make([]string, len(modes))
	for i, m := range modes {
		words[i] = string(m)
	}
	return strings.Join(words, " or ")
}

// refused appends the refusal of a change to the audit trail.
func (d *Daemon) refused(ctx context.Context, c Caller, kind, target string, err *error) {
	if *err == nil {
		return
	}
	e := classify(*err)
	*err = e
	d.log.LogAttrs(ctx, levelOf(e), "refused", logAttrs(c, kind, target, e)...)
	write, counted := d.refusals.admit(c.GUID, time.Now())
	if !write {
		return
	}
	row := auditRow(c.GUID, c.From, c.Request, kind, clip(target), "refused", string(e.Code)+": "+e.Message)
	unwritten := d.store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if counted > 0 {
			if err := tx.Audit(countedRow(c.GUID, counted)); err != nil {
				return err
			}
		}
		return tx.Audit(row)
	})
	if unwritten != nil {
		d.log.LogAttrs(ctx, levelOf(classify(unwritten)), "audit row not written", logAttrs(c, kind, target, classify(unwritten))...)
	}
}
