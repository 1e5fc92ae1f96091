package daemon

import (
	"context"
	"errors"
	"log/slog"

	"github.com/capsuled/capsuled/daemon/store"
)

// CancelOperation ends an operation that brings, shares or verifies an image: its steps are interrupted, what they did is
// taken back, and it fails with the cause "cancelled by" and the caller's guid. It is in the journal when this returns: a
// restart goes on with the way back, not with the steps. Who began it may, the owner of its image or capsule, and
// administrators. Conflict when it has ended, is about to, or is of a kind that is carried through.
func (d *Daemon) CancelOperation(ctx context.Context, c Caller, id string) (v Operation, err error) {
	const kind = "cancel"
	defer d.refused(ctx, c, kind, id, &err)
	if c.GUID == "" {
		return v, errorf(Unauthorized, "who asks is not known")
	}
	seen, err := d.Operation(ctx, c, id)
	if err != nil {
		return v, err
	}
	if err := d.accepting(); err != nil {
		return v, err
	}
	cause := errorf(Conflict, "cancelled by %s", c.GUID)
	a, _, live := d.current(id)
	cancelled := false
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		o, err := tx.Operation(id)
		switch {
		case err != nil:
			return missing(err, "no operation %s", clip(id))
		case !c.admin() && c.GUID != o.Actor && c.GUID != o.Owner:
			return errorf(Forbidden, "operation %s is not yours", id)
		case !o.Ended.IsZero():
			return errorf(Conflict, "operation %s has %s", id, o.State)
		case d.procedures[o.Kind] == nil || !d.procedures[o.Kind].cancellable:
			return errorf(Conflict, "operation %s cannot be cancelled: %s is carried through", id, spoken(o.Kind))
		case o.Code != "":
			return errorf(Conflict, "operation %s has failed already: %s", id, o.Cause)
		}
		// From here on its steps do not succeed any more, should the transaction fail too: then they are taken back as well.
		if live && !cancelled {
			if !a.fall(cause) {
				return errorf(Conflict, "operation %s is about to end", id)
			}
			cancelled = true
		}
		o.Code, o.Cause, o.Detail = string(cause.Code), cause.Message, cause.Error()
		return errors.Join(tx.UpdateOperation(o), tx.Audit(auditRow(c.GUID, c.From, c.Request, kind, id, "succeeded", "of "+o.Target)))
	})
	if cancelled {
		a.interrupt(cause)
		d.log.LogAttrs(ctx, slog.LevelInfo, "operation cancelled", a.attrs(slog.String("guid", c.GUID))...)
	}
	if err != nil {
		return v, err
	}
	if v, err = d.Operation(context.WithoutCancel(ctx), c, id); err != nil {
		return seen, err
	}
	return v, nil
}

// fall makes an act fail with a cause, unless its steps are through.
func (a *act) fall(cause *Error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.through || a.op.Code != "" {
		return false
	}
	a.op.Code, a.op.Cause, a.op.Detail = string(cause.Code), cause.Message, cause.Error()
	return true
}

// concluded is what an act ends with whose steps have ended so: from here on it cannot be cancelled. Why it was cancelled
// goes before what its steps say of being interrupted; a step that took too long was not.
func (a *act) concluded(err error) *Error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.through = true
	if cause := a.failedBefore(); cause != nil {
		return cause
	}
	return classify(err)
}
