package store_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/capsuled/capsuled/daemon/store"
)

// TestMigrationOfOperations opens a store in which an older version left an operation half way: how many connections it cut is
// not known, and not none.
func TestMigrationOfOperations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range append(store.Migrations(4),
		`INSERT INTO operations (id, kind, target, owner, state, step, steps, actor, origin, request, started)
			VALUES ('op', 'enter', 'c', 'alice', 'running', 'attach', '[{"name":"fence","state":"done","note":"2 connections cut"}]', 'alice', '', '', 1)`,
		`PRAGMA user_version = 4`) {
		if _, err := raw.Exec(q); err != nil {
			t.Fatalf("%v: %s", err, q)
		}
	}
	raw.Close()
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	update(t, db, func(tx *store.Tx) error {
		op, err := tx.OpenOperation("c")
		if err == nil && (op.Cut != nil || op.Reserved != "" || op.Step != "attach") {
			t.Errorf("%+v", op)
		}
		return err
	})
}
