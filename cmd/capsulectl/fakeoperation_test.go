package main

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

type fakeOperation struct {
	wire.Operation
	end func(ok bool) // called once, with the state locked
}

// Fail makes the next operation of this kind fail at step, with this code and cause.
func (s *fakeDaemon) Fail(kind, step, code, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[kind] = failure{step, code, cause}
}

// Hold keeps every operation at its present step until Release.
func (s *fakeDaemon) Hold() { s.hold(true) }

// Release ends what Hold began.
func (s *fakeDaemon) Release() { s.hold(false) }

func (s *fakeDaemon) hold(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	select {
	case <-s.polled: // an earlier poll is none of those to come
	default:
	}
}

// Polled receives a value after somebody asked for an operation's state.
func (s *fakeDaemon) Polled() <-chan struct{} { return s.polled }

// AddOperation puts an operation there as it is.
func (s *fakeDaemon) AddOperation(op wire.Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = append(s.ops, &fakeOperation{Operation: op, end: func(bool) {}})
}

// begin makes a running operation, with the state locked.
func (s *fakeDaemon) begin(kind, target string, steps []string, end func(ok bool)) *fakeOperation {
	op := &fakeOperation{end: end, Operation: wire.Operation{
		ID: s.nextID("c"), Kind: kind, Target: target, State: "running", Step: steps[0], Actor: "root", Started: epoch,
	}}
	for _, name := range steps {
		op.Steps = append(op.Steps, wire.Step{Name: name, State: "pending"})
	}
	op.Steps[0].State = "running"
	s.ops = append(s.ops, op)
	return op
}

func (s *fakeDaemon) busy(target string) bool {
	return slices.ContainsFunc(s.ops, func(op *fakeOperation) bool { return op.Target == target && op.State == "running" })
}

// advance moves a running operation on by one step of a quarter second.
func (s *fakeDaemon) advance(op *fakeOperation) {
	if op.State != "running" || s.held {
		return
	}
	i := slices.IndexFunc(op.Steps, func(step wire.Step) bool { return step.State == "running" })
	op.Steps[i].Seconds = 0.25
	ended := epoch.Add(time.Duration(i+1) * 250 * time.Millisecond)
	if f, ok := s.failures[op.Kind]; ok && f.step == op.Step {
		delete(s.failures, op.Kind)
		op.Steps[i].State = "failed"
		op.State, op.Code, op.Cause, op.Ended = "failed", f.code, f.cause, &ended
		op.end(false)
		return
	}
	op.Steps[i].State = "done"
	op.Progress = 100 * (i + 1) / len(op.Steps)
	if i+1 < len(op.Steps) {
		op.Steps[i+1].State = "running"
		op.Step = op.Steps[i+1].Name
		return
	}
	op.State, op.Ended = "succeeded", &ended
	op.end(true)
}

func locate(w http.ResponseWriter, op *fakeOperation) {
	w.Header().Set(wire.OperationHeader, "/v1/operations/"+op.ID)
}

func (s *fakeDaemon) showOperation(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(s.ops, func(op *fakeOperation) bool { return op.ID == r.PathValue("id") })
	if i < 0 {
		refuse(w, r, "not_found", "no operation "+r.PathValue("id"))
		return
	}
	if wait := r.URL.Query().Get("wait"); wait != "" {
		if n, err := strconv.Atoi(wait); err != nil || n < 1 || n > 60 {
			refuse(w, r, "invalid", "wait must be 1 to 60")
			return
		}
	}
	reply(w, http.StatusOK, s.ops[i].Operation)
	s.advance(s.ops[i])
	select {
	case s.polled <- struct{}{}:
	default:
	}
}

func (s *fakeDaemon) listOperations(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit := 100
	if query.Has("limit") {
		limit, _ = strconv.Atoi(query.Get("limit"))
	}
	list := wire.OperationList{Operations: []wire.Operation{}}
	for _, op := range slices.Backward(s.ops) {
		if (query.Get("target") == "" || query.Get("target") == op.Target) &&
			(query.Get("state") == "" || query.Get("state") == op.State) && len(list.Operations) < limit {
			list.Operations = append(list.Operations, op.Operation)
		}
	}
	reply(w, http.StatusOK, list)
}
