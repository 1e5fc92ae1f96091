package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestRecords: what each switch leaves behind names the clean point that it was about, and one that the daemon began by
// itself says why.
func TestRecords(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.hold(id)
	b.succeed(b.free(b.ResumeCapsule, root, id))
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	records, err := b.SwitchRecords(t.Context(), alice, id)
	if err != nil || len(records) != 4 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, kind := range []string{"leave", "readmit", "hold", "enter"} { // newest first
		r := records[i]
		if r.Kind != kind || r.CleanPoint == "" || r.CleanPoint != records[3].CleanPoint {
			t.Errorf("%s, want %s: clean point %q, want %q", r.Kind, kind, r.CleanPoint, records[3].CleanPoint)
		}
		if held := kind == "hold"; held != strings.Contains(r.Cause, "a host device") {
			t.Errorf("%s: cause %q", kind, r.Cause)
		}
	}
}

// TestRecordsOutliveTheCapsule: what its switches left behind can be read when it is deleted, by administrators.
func TestRecordsOutliveTheCapsule(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.succeed(b.DeleteCapsule(t.Context(), alice, id))
	records, err := b.SwitchRecords(t.Context(), root, id)
	if err != nil || len(records) != 2 || records[0].Kind != "delete" || records[0].CleanPoint != records[1].CleanPoint || records[1].CleanPoint == "" {
		t.Errorf("%+v, %v", records, err)
	}
	if _, err := b.SwitchRecords(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("its owner reads them: %v", err)
	}
	if _, err := b.SwitchRecords(t.Context(), root, "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10"); code(err) != daemon.NotFound {
		t.Errorf("of one that never was: %v", err)
	}
}
