package main

import (
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// steps gathers what the steps of operations of one kind took, in their order.
type steps struct {
	names []string
	took  map[string]sample
	rest  sample // of the whole, beyond the steps: the request, the journal, the outcome
}

func (s *steps) add(op wire.Operation, whole time.Duration) {
	if s.took == nil {
		s.took = map[string]sample{}
	}
	rest := whole
	for _, step := range op.Steps {
		if s.took[step.Name] == nil {
			s.names = append(s.names, step.Name)
		}
		d := seconds(step.Seconds)
		s.took[step.Name] = append(s.took[step.Name], d)
		rest -= d
	}
	s.rest = append(s.rest, rest)
}

// rows adds a line for each step, and one for what is no step's.
func (s *steps) rows(t *table, whole time.Duration) {
	row := func(name string, d sample) {
		t.add(name, ms(d.median()), ms(d.at(0.1)), ms(d.at(0.9)), ratio(d.median(), whole))
	}
	for _, name := range s.names {
		row("step "+name, s.took[name])
	}
	row("request, journal, outcome", s.rest)
}
