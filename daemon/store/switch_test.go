package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// TestSwitchChain alters and removes records behind the store's back, as who has the file could: each shows.
func TestSwitchChain(t *testing.T) {
	for name, tc := range map[string]struct{ tamper, fault string }{
		"untouched":      {"SELECT 1", ""},
		"altered":        {"UPDATE switches SET body = 'x' WHERE seq = 2", "record 2 was altered"},
		"another time":   {"UPDATE switches SET at = at + 1 WHERE seq = 3", "record 3 was altered"},
		"another's":      {"UPDATE switches SET capsule = 'b' WHERE seq = 1", "record 1 was altered"},
		"first removed":  {"DELETE FROM switches WHERE seq = 1", "record 1 is missing"},
		"middle removed": {"DELETE FROM switches WHERE seq = 2", "record 2 is missing"},
		"last removed":   {"DELETE FROM switches WHERE seq = 3", "record 3 is missing"},
		"all removed":    {"DELETE FROM switches", "record 3 is missing"},
		"rehashed alone": {"UPDATE switches SET hash = 'x' WHERE seq = 2", "record 2 was altered"},
		"swapped":        {"UPDATE switches SET body = (SELECT body FROM switches WHERE seq = 1) WHERE seq = 2", "record 2 was altered"},
		"inserted":       {"INSERT INTO switches SELECT 4, at, capsule, operation, body, hash, 'forged' FROM switches WHERE seq = 3", "record 4 was altered"},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			for _, body := range []string{"one", "two", "three"} {
				update(t, db, func(tx *store.Tx) error {
					_, err := tx.AppendSwitch("a", "op-"+body, body, time.Now())
					return err
				})
			}
			for _, q := range []string{"DROP TRIGGER switch_keep", "DROP TRIGGER switch_fixed", tc.tamper} {
				if err := store.Exec(t.Context(), db, q); err != nil {
					t.Fatal(err)
				}
			}
			err := db.View(t.Context(), func(tx *store.Tx) error {
				_, _, fault, err := tx.CheckSwitches()
				if fault != tc.fault {
					t.Errorf("fault %q, want %q", fault, tc.fault)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestSwitchesAreKept finds that the store itself has no way to change a record.
func TestSwitchesAreKept(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *store.Tx) error { _, err := tx.AppendSwitch("a", "op", "{}", time.Now()); return err })
	for _, q := range []string{"DELETE FROM switches", "UPDATE switches SET body = 'x'"} {
		if err := store.Exec(t.Context(), db, q); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", q, err)
		}
	}
}
