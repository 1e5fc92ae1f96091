package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/capsuled/capsuled/daemon/store"
)

// VerifyAll proves every capsule in secure mode now, as the timer does.
func (d *Daemon) VerifyAll(ctx context.Context) error { return d.verifyAll(ctx) }

// Begin begins an operation of a kind as the daemon does by itself.
func (d *Daemon) Begin(ctx context.Context, kind, id string) (Operation, error) {
	return d.begin(ctx, itself, kind, id, encode(reason{"the test has it so"}), anyVersion)
}

// FailLoads fails the next n times that the record of an operation of a kind is read.
func (d *Daemon) FailLoads(kind string, n int) {
	p := d.procedures[kind]
	load := p.load
	p.load = func(tx *store.Tx, a *act) error {
		if n > 0 {
			n--
			return errors.New("the records cannot be read")
		}
		return load(tx, a)
	}
}

// Kinds are the kinds of operations that there are.
func (d *Daemon) Kinds() []string { return slices.Sorted(maps.Keys(d.procedures)) }

// StepNames are the steps of a kind of operation, in order.
func StepNames(kind string) (names []string) {
	for _, s := range capsuleSteps()[kind] {
		names = append(names, s.name)
	}
	return names
}

// Classify is what an error of a leaf means to a caller.
func Classify(err error) *Error { return classify(err) }
