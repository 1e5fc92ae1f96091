package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// step is one idempotent part of a procedure. A step may be run again after a crash at any point of it.
type step struct {
	name string
	do   func(*act, context.Context) error
	undo func(*act, context.Context) error // nil when there is nothing to undo
	anew bool                              // a restart undoes it: it is done again though a later step was begun
}

// procedure is how one kind of operation is carried out: a row of the table in procedures.go.
type procedure struct {
	kind  string
	steps []step
	load  func(*store.Tx, *act) error         // reads the record that the operation is about
	done  func(*store.Tx, *act) error         // writes what came of it
	fail  func(*store.Tx, *act, *Error) error // writes that it failed, after the undo
	limit func(*act, string) time.Duration    // how long a step may take, by its name; nil means stepLimit
	hold  func(*act) (release func())         // what is held from before the first step until the outcome is written
	// ordered is a procedure whose steps must not run again once a later one has begun: a restart goes on at the
	// step that was journalled last, and an undo ends where it fails.
	ordered bool
	after   func(*act) // once it has ended
	// cancellable is a procedure that may be given up by those who wanted it (CancelOperation).
	cancellable bool
}

const stepLimit = 3 * time.Minute

// act is one operation under way.
type act struct {
	d       *Daemon
	proc    *procedure
	capsule store.Capsule    // for procedures on capsules
	image   store.Image      // for procedures on images
	got     imagestore.Image // what came of the image
	ended   chan struct{}

	proof  Proof // what the last look at kernel and libvirt found
	undone bool  // everything that had been done was taken back
	fresh  bool  // nothing was closed for it before: what there is to be cut can be counted
	// pointBefore is the id of the clean point that there was before the steps; one of them may give it up.
	pointBefore string

	interrupt context.CancelCauseFunc // ends the steps, and not what takes them back

	mu      sync.Mutex // guards what follows
	op      store.Operation
	through bool // its steps have ended
}

// newOperation is the journal entry of an act that has not begun.
func (d *Daemon) newOperation(p *procedure, c Caller, target, owner, argument string) store.Operation {
	op := store.Operation{
		ID: uuid.NewString(), Kind: p.kind, Target: target, Owner: owner, Argument: argument,
		State: string(OperationRunning), Actor: c.GUID, Origin: c.From, Request: c.Request, Started: time.Now(),
	}
	op.Steps = p.journalled(nil)
	return op
}

// start carries an operation out whose intent is on disk. When the daemon is stopping it leaves that to the next one.
func (d *Daemon) start(op store.Operation) {
	d.carry(&act{d: d, proc: d.procedures[op.Kind], op: op, ended: make(chan struct{}), fresh: true})
}

// takeUp is start of an operation that was under way when the daemon ended. Who is on the way between the modes was closed by
// the start, whether or not a step was begun before.
func (d *Daemon) takeUp(op store.Operation) {
	d.carry(&act{d: d, proc: d.procedures[op.Kind], op: op, ended: make(chan struct{})})
}

func (d *Daemon) carry(a *act) {
	op := a.op
	a.op.Steps = a.proc.journalled(op.Steps)
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx := d.base
	if ctx == nil || ctx.Err() != nil || d.live[op.ID] != nil { // resume found a hold that was written down just now
		return
	}
	d.live[op.ID] = a
	var work context.Context
	work, a.interrupt = context.WithCancelCause(ctx)
	d.acts.Go(func() {
		defer a.interrupt(nil)
		a.run(ctx, work)
		d.mu.Lock()
		delete(d.live, op.ID)
		d.mu.Unlock()
		close(a.ended)
		if a.proc.after != nil {
			a.proc.after(a)
		}
	})
}

// journalled brings the steps of a journal to those of the procedure: one that an older version began may have fewer, or
// others.
func (p *procedure) journalled(have []store.Step) []store.Step {
	steps := make([]store.Step, len(p.steps))
	for i, s := range p.steps {
		steps[i] = store.Step{Name: s.name, State: "pending"}
		if j := slices.IndexFunc(have, func(h store.Step) bool { return h.Name == s.name }); j >= 0 {
			steps[i] = have[j]
		}
	}
	return steps
}

// resume takes up every operation that was open when the daemon ended (act.first says at which step).
func (d *Daemon) resume(ctx context.Context) error {
	var open []store.Operation
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) { open, err = tx.OpenOperations(); return err }); err != nil {
		return err
	}
	for _, op := range open { // all before any: when it fails it is tried again, and must then have begun nothing
		if d.procedures[op.Kind] == nil {
			return fmt.Errorf("daemon: operation %s is of a kind this version does not know: %q", op.ID, op.Kind)
		}
	}
	for _, op := range open {
		if _, _, live := d.current(op.ID); live {
			continue // the full pass before began it
		}
		d.log.LogAttrs(ctx, slog.LevelInfo, "operation resumed", slog.String("operation", op.ID), slog.String("kind", op.Kind), slog.String("target", op.Target))
		d.takeUp(op)
	}
	return nil
}

// run does the steps in order and writes what came of them. When the daemon itself is stopping the operation
// stays open, for the next start to take up. The steps run on work, which ends earlier when they are cancelled.
func (a *act) run(ctx, work context.Context) {
	if a.proc.hold != nil {
		defer a.proc.hold(a)()
	}
	began := time.Now()
	a.mu.Lock()
	cause := a.failedBefore()
	a.through = cause != nil
	a.mu.Unlock()
	unread := a.read(ctx)
	if cause == nil {
		err := unread
		if err == nil {
			err = a.steps(work)
		}
		if ctx.Err() != nil {
			return
		}
		cause = a.concluded(err)
	}
	if cause != nil {
		a.undo(ctx, cause)
		if ctx.Err() != nil {
			return
		}
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := a.conclude(ctx, cause)
		if err == nil {
			break
		}
		if errors.Is(err, store.ErrStale) { // only a fault of ours closes an operation under the act
			a.d.log.LogAttrs(ctx, slog.LevelError, "operation was closed already", a.attrs()...)
			return
		}
		// The outcome must reach the records: a full disk is waited for, not forgotten.
		a.d.log.LogAttrs(ctx, slog.LevelError, "outcome not recorded, trying again", a.attrs(slog.String("error", err.Error()))...)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	a.d.metrics.operation(a.op.Kind, a.op.Step, cause, time.Since(began))
	if cause != nil {
		a.d.log.LogAttrs(ctx, slog.LevelError, "operation failed", a.attrs(slog.String("step", a.op.Step), slog.String("error", cause.Error()))...)
		return
	}
	a.d.log.LogAttrs(ctx, slog.LevelInfo, "operation succeeded", a.attrs(slog.Duration("took", time.Since(began)))...)
}

func (a *act) attrs(more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{slog.String("operation", a.op.ID), slog.String("kind", a.op.Kind), slog.String("target", a.op.Target)}, more...)
}

// failedBefore is why an operation failed whose undo a restart cut short, or that was cancelled. mu is held.
func (a *act) failedBefore() *Error {
	if a.op.Code == "" {
		return nil
	}
	if a.op.Detail == a.op.Cause {
		return &Error{Code: Code(a.op.Code), Message: a.op.Cause}
	}
	return &Error{Code: Code(a.op.Code), Message: a.op.Cause, Err: errors.New(strings.TrimPrefix(a.op.Detail, a.op.Cause+": "))}
}

// read reads the record that the operation is about, however long that takes: who does not know it must neither do nor
// undo a step, nor say how the operation ended. It fails when there is no such record, or ctx has ended.
func (a *act) read(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := a.d.store.View(ctx, func(tx *store.Tx) error { return a.proc.load(tx, a) })
		if err == nil || errors.Is(err, store.ErrNotFound) {
			return err
		}
		a.d.log.LogAttrs(ctx, slog.LevelError, "record not read, trying again", a.attrs(slog.String("error", err.Error()))...)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// steps runs the steps that are still to be run.
func (a *act) steps(ctx context.Context) error {
	if a.proc.ordered && a.op.Step != "" && a.begun() == 0 {
		return fmt.Errorf("daemon: operation %s stopped at a step that this version does not know: %q", a.op.ID, a.op.Step)
	}
	for i := a.first(); i < len(a.proc.steps); i++ {
		s := a.proc.steps[i]
		if err := a.journal(ctx, i); err != nil {
			return err
		}
		began := time.Now()
		if err := a.patiently(ctx, s.name, s.do); err != nil {
			a.note(i, "failed", time.Since(began))
			return err
		}
		a.note(i, "done", time.Since(began))
	}
	return nil
}

// first is the step to begin with: the first one, or in an ordered procedure the one that was journalled last, or an
// earlier one that a restart has undone.
func (a *act) first() int {
	last := a.begun() - 1
	if !a.proc.ordered || last < 0 {
		return 0
	}
	if i := slices.IndexFunc(a.proc.steps, func(s step) bool { return s.anew }); i >= 0 {
		return min(i, last)
	}
	return last
}

// begun is how many steps were journalled.
func (a *act) begun() int {
	return 1 + slices.IndexFunc(a.proc.steps, func(s step) bool { return s.name == a.op.Step })
}

// undo takes back what the steps before and including the failed one did, in reverse order. That it failed is
// journalled first: a restart goes on with the undo. What cannot be taken back now is left to the reconciler, who
// knows from the record that it must go.
func (a *act) undo(ctx context.Context, cause *Error) {
	a.mu.Lock()
	a.op.Code, a.op.Cause, a.op.Detail = string(cause.Code), cause.Message, cause.Error()
	op := a.op
	a.mu.Unlock()
	err := a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.UpdateOperation(op) })
	if err == nil { // the record as the steps left it
		err = a.d.store.View(ctx, func(tx *store.Tx) error { return a.proc.load(tx, a) })
	}
	if err != nil {
		// A full disk, perhaps; the undo may be what makes room. Should the daemon die in it, the steps go forward
		// again, and find that what they need is not there.
		a.d.log.LogAttrs(ctx, slog.LevelError, "failure not journalled", a.attrs(slog.String("error", err.Error()))...)
	}
	a.undone = a.op.Step == "" || a.begun() > 0 // of steps that this version does not know, nobody knows what they did
	for i := a.begun() - 1; i >= 0; i-- {
		s := a.proc.steps[i]
		if s.undo == nil {
			continue
		}
		if err := a.patiently(ctx, s.name, s.undo); err != nil {
			a.undone = false
			a.d.log.LogAttrs(ctx, slog.LevelError, "step not undone", a.attrs(slog.String("step", s.name), slog.String("error", err.Error()))...)
			if a.proc.ordered {
				return
			}
			continue
		}
		if a.op.Steps[i].State == "done" {
			a.note(i, "undone", 0)
		}
	}
}

// patiently runs a step, again as long as the only trouble is that libvirt or the firewall does not answer.
func (a *act) patiently(ctx context.Context, name string, do func(*act, context.Context) error) error {
	limit := stepLimit
	if a.proc.limit != nil {
		limit = a.proc.limit(a, name)
	}
	deadline := time.Now().Add(a.d.opt.Patience)
	for said := ""; ; {
		err := within(ctx, limit, func(ctx context.Context) error { return do(a, ctx) })
		if err == nil || ctx.Err() != nil || classify(err).Code != Unavailable || time.Now().After(deadline) {
			return err
		}
		if errors.Is(err, imagestore.ErrSource) { // somebody else's server is not asked again by itself
			return err
		}
		if text := err.Error(); text != said {
			said = text
			a.d.log.LogAttrs(ctx, slog.LevelWarn, "step waits", a.attrs(slog.String("step", name), slog.String("error", text))...)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// conclude writes the outcome: of the record, the operation and the audit trail, in one transaction.
func (a *act) conclude(ctx context.Context, cause *Error) error {
	a.mu.Lock()
	op := a.op
	a.mu.Unlock()
	op.Ended, op.State = time.Now(), string(OperationSucceeded)
	outcome, detail := "succeeded", ""
	if cause == nil {
		op.Progress = 100
	} else {
		op.State = string(OperationFailed)
		outcome, detail = "failed", fmt.Sprintf("step %s: %v", op.Step, cause)
	}
	err := a.d.store.Update(ctx, func(tx *store.Tx) error {
		var err error
		if cause == nil {
			err = a.proc.done(tx, a)
		} else {
			err = a.proc.fail(tx, a, cause)
		}
		if err != nil && !errors.Is(err, store.ErrStale) {
			return err
		}
		if err != nil { // nobody else may move a record with an open operation: say so, and close the operation
			a.d.log.LogAttrs(ctx, slog.LevelError, "record was moved under an operation", a.attrs()...)
		}
		return errors.Join(tx.UpdateOperation(op),
			tx.Audit(auditRow(op.Actor, op.Origin, op.Request, op.Kind, op.Target, outcome, detail)))
	})
	if err == nil {
		a.mu.Lock()
		a.op = op
		a.mu.Unlock()
	}
	return err
}
