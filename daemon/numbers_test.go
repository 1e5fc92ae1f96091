package daemon_test

import (
	"errors"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestNumbersOfTheGuest: how many connections a guest in secure mode leaves behind, what it answers and how long it takes
// are its to choose. Administrators read it, and its members do not.
func TestNumbersOfTheGuest(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	for _, c := range []daemon.Caller{root, alice} {
		own, err := b.Operation(t.Context(), c, op.ID)
		list, err2 := b.Operations(t.Context(), c, daemon.OperationFilter{Target: id, Limit: 1})
		records, err3 := b.SwitchRecords(t.Context(), c, id)
		if err := errors.Join(err, err2, err3); err != nil || len(list) != 1 || len(records) != 2 {
			t.Fatalf("%s: %d operations, %d records, %v", c.GUID, len(list), len(records), err)
		}
		told := records[0].Cut != nil
		for _, steps := range [][]daemon.Step{own.Steps, list[0].Steps, records[0].Steps} {
			if len(steps) != len(daemon.StepNames("leave")) {
				t.Errorf("%s sees the steps %v", c.GUID, steps)
			}
			for _, s := range steps {
				told = told || s.Note != "" || s.Seconds > 0
			}
		}
		if told != (c.GUID == root.GUID) {
			t.Errorf("told to %s: %t", c.GUID, told)
		}
	}
}
