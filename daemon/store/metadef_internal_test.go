package store

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMetadefMigration opens a store as the version before metadata definitions left it, wherever their migration stands.
func TestMetadefMigration(t *testing.T) {
	at := slices.IndexFunc(migrations, func(m string) bool { return strings.Contains(m, "CREATE TABLE metadefs") })
	if at < 0 {
		t.Fatal("no migration makes the table")
	}
	path := filepath.Join(t.TempDir(), "capsuled.db")
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(slices.Clone(migrations[:at]), `INSERT INTO users (guid, email) VALUES ('old', 'o@example.org')`,
		fmt.Sprintf("PRAGMA user_version = %d", at)) {
		if _, err := raw.Exec(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(t.Context(), func(tx *Tx) error {
		none, err := tx.Metadefs()
		if err != nil || len(none) != 0 {
			t.Errorf("%v, %v in a table that is new", none, err)
		}
		_, err = tx.User("old")
		return errors.Join(err, tx.InsertMetadef(metadefA))
	})
	if err != nil {
		t.Fatal(err)
	}
}

var metadefA = Metadef{
	Namespace: "A", DisplayName: "a", Description: "d", Visibility: "public", Protected: true, Owner: "alice",
	ResourceTypes: "[1]", Properties: "{}", Objects: "[2]", CreatedAt: time.Unix(7, 3000).UTC(), UpdatedAt: time.Unix(9, 0).UTC(),
}

func TestMetadef(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "capsuled.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(want error, f func(*Tx) error) {
		t.Helper()
		if err := db.Update(t.Context(), f); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	same := func(want ...Metadef) {
		t.Helper()
		do(nil, func(tx *Tx) error {
			got, err := tx.Metadefs()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			return err
		})
	}
	b := metadefA
	b.Namespace = "0"
	do(nil, func(tx *Tx) error { return errors.Join(tx.InsertMetadef(metadefA), tx.PutMetadef(b)) })
	do(ErrTaken, func(tx *Tx) error { return tx.InsertMetadef(metadefA) })
	same(b, metadefA)

	over := Metadef{Namespace: "A", Owner: "bob", CreatedAt: time.Unix(100, 0), UpdatedAt: time.Unix(5, 0)}
	do(nil, func(tx *Tx) error { return tx.SeedMetadef(over) })
	same(b, metadefA)
	do(nil, func(tx *Tx) error { return tx.PutMetadef(over) })
	same(b, Metadef{Namespace: "A", Owner: "alice", CreatedAt: metadefA.CreatedAt, UpdatedAt: metadefA.UpdatedAt}) // neither time goes back

	do(nil, func(tx *Tx) error { return tx.DeleteMetadef("A") })
	do(ErrNotFound, func(tx *Tx) error { return tx.DeleteMetadef("A") })
	do(ErrNotFound, func(tx *Tx) error { _, err := tx.Metadef("A"); return err })
	same(b)
}
