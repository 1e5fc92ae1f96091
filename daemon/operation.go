package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// OperationState says how an operation goes.
type OperationState string

const (
	OperationRunning   OperationState = "running"
	OperationSucceeded OperationState = "succeeded"
	OperationFailed    OperationState = "failed"
)

// Step is one idempotent part of an operation; its state is "pending", "running", "done", "failed" or "undone".
type Step = store.Step

// Operation is one act on a capsule or an image, from its journalled intent to its end.
type Operation struct {
	ID       string
	Kind     string // "create", "launch", "stop", "delete", "image-add", "image-fetch", "image-finish", "image-share" (of the capsule), "image-verify", "image-delete"; what the daemon began itself: "poweroff", "crash", "evict"
	Target   string // id of the capsule or image
	State    OperationState
	Step     string // the step under way, or the one that failed
	Steps    []Step
	Progress int // percent, 0..100
	Code     Code
	Cause    string // why it failed
	Actor    string // guid, or "daemon"
	Started  time.Time
	Ended    time.Time // zero while it runs
}

// OperationFilter narrows a list; zero fields match everything.
type OperationFilter struct {
	Target string
	State  OperationState
	Limit  int // newest first; 0 means 100, and more than 1000 is 1000
}

// public is an operation as a caller may see it: administrators see the leaves' own words, and what its steps found.
func public(o store.Operation, c Caller) Operation {
	v := Operation{
		ID: o.ID, Kind: o.Kind, Target: o.Target, State: OperationState(o.State), Step: o.Step, Steps: o.Steps, Progress: o.Progress,
		Code: Code(o.Code), Cause: o.Cause, Actor: o.Actor, Started: o.Started, Ended: o.Ended,
	}
	if c.admin() && o.Detail != "" {
		v.Cause = o.Detail
	}
	if !c.admin() {
		v.Steps = bare(o.Steps)
	}
	return v
}

// bare is the steps without what they found and how long they took. A guest in secure mode chooses much of it: how many
// connections it leaves to be cut, how it answers, and when. Its members are who it would like to tell.
func bare(steps []Step) []Step {
	out := make([]Step, len(steps))
	for i, s := range steps {
		out[i] = Step{Name: s.Name, State: s.State}
	}
	return out
}

// current is what an operation under way looks like now; ok is false when it is not under way.
func (d *Daemon) current(id string) (a *act, o store.Operation, ok bool) {
	d.mu.Lock()
	a = d.live[id]
	d.mu.Unlock()
	if a == nil {
		return nil, o, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a, a.op, true
}

// Operation reads one operation.
func (d *Daemon) Operation(ctx context.Context, c Caller, id string) (Operation, error) {
	var o store.Operation
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		if o, err = tx.Operation(id); err != nil {
			return missing(err, "no operation %s", clip(id))
		}
		members, err := tx.MembersOf(o.Target)
		if err == nil && !follows(c, o, members) {
			err = errorf(NotFound, "no operation %s", clip(id))
		}
		return err
	})
	if err != nil {
		return Operation{}, err
	}
	if _, now, ok := d.current(id); ok && o.Ended.IsZero() {
		o = now
	}
	return public(o, c), nil
}

// follows says whether a caller may read an operation: it is his, or is about a capsule that he may know more of than that it
// exists.
func follows(c Caller, o store.Operation, members []Member) bool {
	return c.admin() || c.GUID != "" && (o.Owner == c.GUID || o.Actor == c.GUID) || stand(c, members).full
}

// WaitOperation reads one operation when it has ended, or when ctx has.
func (d *Daemon) WaitOperation(ctx context.Context, c Caller, id string) (Operation, error) {
	o, err := d.Operation(ctx, c, id)
	if err != nil || !o.Ended.IsZero() {
		return o, err
	}
	if a, _, ok := d.current(id); ok {
		select {
		case <-a.ended:
		case <-ctx.Done():
		}
	}
	return d.Operation(context.WithoutCancel(ctx), c, id)
}

// Operations lists the newest operations that the caller may see.
func (d *Daemon) Operations(ctx context.Context, c Caller, f OperationFilter) ([]Operation, error) {
	if c.GUID == "" {
		return nil, errorf(Unauthorized, "who asks is not known")
	}
	viewer := c.GUID
	if c.admin() {
		viewer = ""
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var list []store.Operation
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		if list, err = tx.Operations(f.Target, string(f.State), viewer, min(limit, 1000)); err != nil || c.admin() {
			return err
		}
		members, err := tx.Members()
		list = slices.DeleteFunc(list, func(o store.Operation) bool { return !follows(c, o, members[o.Target]) })
		return err
	})
	out := make([]Operation, 0, len(list))
	for _, o := range list {
		if _, now, ok := d.current(o.ID); ok && o.Ended.IsZero() {
			o = now
		}
		out = append(out, public(o, c))
	}
	return out, err
}

// Readiness says whether the daemon serves, and if not, what it waits for.
type Readiness struct {
	Ready   bool
	Reasons []string // such as "libvirt: connection refused"
}
