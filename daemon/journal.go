package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// What an act writes down of itself, and what it was given.

// journal writes, before a step runs, that it is about to.
func (a *act) journal(ctx context.Context, i int) error {
	a.mu.Lock()
	a.op.Step = a.proc.steps[i].name
	a.op.Steps = slices.Clone(a.op.Steps)
	a.op.Steps[i] = store.Step{Name: a.op.Step, State: "running", Note: a.op.Steps[i].Note}
	a.op.Progress = 100 * i / len(a.proc.steps)
	op := a.op
	a.mu.Unlock()
	return a.d.store.Update(ctx, func(tx *store.Tx) error { return tx.UpdateOperation(op) })
}

// note remembers how a step ended; the next journal entry writes it down.
func (a *act) note(i int, state string, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.op.Steps = slices.Clone(a.op.Steps)
	a.op.Steps[i].State = state
	if took > 0 {
		a.op.Steps[i].Seconds = took.Seconds()
	}
}

// say notes what the step under way found, for the operation and for the record of the switch.
func (a *act) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.op.Steps = slices.Clone(a.op.Steps)
	if i := slices.IndexFunc(a.op.Steps, func(s store.Step) bool { return s.Name == a.op.Step }); i >= 0 {
		a.op.Steps[i].Note = fmt.Sprintf(format, args...)
	}
}

// reserve notes what is not as it should be and does not fail the operation. As what say notes, it is written down with the
// next step's entry, or the outcome.
func (a *act) reserve(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.op.Reserved = text
}

// progress tells how far the step under way is, done of total; it is not written to disk.
func (a *act) progress(done, total int64) {
	if total <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.op.Steps, func(s store.Step) bool { return s.Name == a.op.Step })
	a.op.Progress = int((float64(i) + float64(done)/float64(total)) * 100 / float64(len(a.op.Steps)))
}

// auditRow is an audit row of now.
func auditRow(actor, origin, request, action, target, outcome, detail string) store.Act {
	return store.Act{At: time.Now(), Actor: actor, Origin: origin, Request: request, Action: action, Target: target, Outcome: outcome, Detail: detail}
}

// argument reads what a procedure was given beyond the record.
func argument[T any](a *act) (v T, err error) {
	if err := json.Unmarshal([]byte(a.op.Argument), &v); err != nil {
		return v, fmt.Errorf("daemon: argument of operation %s: %w", a.op.ID, err)
	}
	return v, nil
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only plain structs of ours come here
	}
	return string(b)
}
