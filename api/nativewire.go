package api

import (
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

func operation(o daemon.Operation) wire.Operation {
	op := wire.Operation{
		ID:       o.ID,
		Kind:     o.Kind,
		Target:   o.Target,
		State:    string(o.State),
		Step:     o.Step,
		Steps:    steps(o.Steps),
		Progress: o.Progress,
		Code:     string(o.Code),
		Cause:    o.Cause,
		Actor:    o.Actor,
		Started:  o.Started.UTC(),
	}
	if !o.Ended.IsZero() {
		ended := o.Ended.UTC()
		op.Ended = &ended
	}
	return op
}

func steps(of []daemon.Step) []wire.Step {
	return each(of, func(s daemon.Step) wire.Step {
		return wire.Step{Name: s.Name, State: s.State, Seconds: s.Seconds, Note: s.Note}
	})
}

// each is the list of what of makes of every item; an empty one and never nil, which would travel as null.
func each[D, W any](items []D, of func(D) W) []W {
	out := make([]W, len(items))
	for i, item := range items {
		out[i] = of(item)
	}
	return out
}
