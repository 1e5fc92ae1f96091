package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon/store"
)

func image(id, name string) store.Image {
	return store.Image{
		ID: id, Name: name, Description: "d", State: "NEW", Visibility: "shared", Protected: true, Owner: "alice", Charged: true,
		MinDiskGB: 3, MinRAMMB: 4, Metadata: map[string]string{"k": "v"}, SourceCapsule: "c", LoginUser: "lu", LoginPassword: "lp",
		AskedFormat: "raw", AskedDigest: "sha256:00", AskedBytes: 7, Upload: "U", Peers: []string{"p"},
		CreatedAt: time.Unix(1000, 5000).UTC(), UpdatedAt: time.Unix(1000, 5000).UTC(),
	}
}

// TestImageComesBackAsItWas, new and changed.
func TestImageComesBackAsItWas(t *testing.T) {
	db := seeded(t)
	want := image("i", "n")
	update(t, db, func(tx *store.Tx) error { return tx.InsertImage(want) })
	update(t, db, func(tx *store.Tx) error {
		got, err := tx.Image("i")
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(store.Image{}, "Version")); diff != "" {
			t.Error(diff)
		}
		if got.Version < 2 {
			t.Errorf("its version is %d, and it is not the first", got.Version)
		}
		want = got
		want.Name, want.Description, want.State, want.Cause, want.Visibility, want.Protected = "m", "e", "NEXT", "why", "private", false
		want.Digest, want.Format, want.FileBytes, want.VirtualBytes, want.MinDiskGB, want.MinRAMMB = "sha256:11", "qcow2", 1, 2, 0, 0
		want.Metadata, want.LoginUser, want.LoginPassword, want.Upload, want.Arrived, want.Peers = map[string]string{}, "", "", "", true, []string{}
		return errors.Join(err, tx.PutImage(want, time.Unix(2000, 0)))
	})
	update(t, db, func(tx *store.Tx) error {
		got, err := tx.Image("i")
		want.UpdatedAt = time.Unix(2000, 0).UTC()
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(store.Image{}, "Version")); diff != "" {
			t.Error(diff)
		}
		if got.Version <= want.Version {
			t.Errorf("version %d after %d", got.Version, want.Version)
		}
		if err := tx.PutImage(want, time.Now()); !errors.Is(err, store.ErrStale) {
			t.Errorf("written back twice: %v", err)
		}
		if err := tx.PutImage(got, time.Unix(1500, 0)); err != nil {
			t.Error(err)
		}
		if again, _ := tx.Image("i"); !again.UpdatedAt.Equal(want.UpdatedAt) {
			t.Errorf("the time went back to %s", again.UpdatedAt)
		}
		return err
	})
}

// TestMetadataIsCompact: a character of a value has no more than two in the records, whatever it is.
func TestMetadataIsCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := image("i", "n")
	want.Metadata = map[string]string{"<>&": "<a href=\"é\">\\\r\n\t&\u2028", "": ""}
	update(t, db, func(tx *store.Tx) error { return errors.Join(tx.PutUser("alice", ""), tx.InsertImage(want)) })
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var kept string
	if err := raw.QueryRow(`SELECT metadata FROM images`).Scan(&kept); err != nil || kept != `{"":"","<>&":"<a href=\"é\">\\\r\n\t&\u2028"}` {
		t.Errorf("%s, %v", kept, err)
	}
	update(t, db, func(tx *store.Tx) error {
		got, err := tx.Image("i")
		if diff := cmp.Diff(want.Metadata, got.Metadata); diff != "" {
			t.Error(diff)
		}
		return err
	})
}

// TestVersions: every change of any image is seen by who asks for what came after a version, and nothing else.
func TestVersions(t *testing.T) {
	db := seeded(t)
	changed := func(since int64) (ids []string, last int64) {
		t.Helper()
		update(t, db, func(tx *store.Tx) error {
			all, err := tx.ImagesChanged(since, time.Unix(100, 0))
			for _, i := range all {
				ids, last = append(ids, i.ID), i.Version
			}
			return err
		})
		if now, err := db.ImageVersion(t.Context()); err != nil || last != 0 && now != last {
			t.Errorf("the last version is %d, %v, and that of the last record %d", now, err, last)
		}
		return ids, last
	}
	_, since := changed(0)
	update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.InsertImage(image("a", "a")), tx.InsertImage(image("b", "b")))
	})
	ids, since := changed(since)
	if diff := cmp.Diff([]string{"a", "b"}, ids); diff != "" {
		t.Error(diff)
	}
	update(t, db, func(tx *store.Tx) error { return tx.BuryImage("a", "DEAD", "why", time.Unix(2000, 0)) })
	ids, last := changed(since)
	if diff := cmp.Diff([]string{"a"}, ids); diff != "" {
		t.Error(diff)
	}
	if ids, _ := changed(last); len(ids) != 0 {
		t.Errorf("nothing has changed, and it says %v", ids)
	}
	update(t, db, func(tx *store.Tx) error { return tx.BuryImage("b", "DEAD", "", time.Unix(50, 0)) })
	if ids, _ := changed(last); len(ids) != 0 {
		t.Errorf("an old tombstone: %v", ids)
	}
}

// TestNames are those of living images that have one.
func TestNames(t *testing.T) {
	db := seeded(t)
	update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.InsertImage(image("a", "")), tx.InsertImage(image("b", "")), tx.InsertImage(image("c", "c")))
	})
	taken := func(id, name string) bool {
		err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertImage(image(id, name)) })
		if err != nil && !errors.Is(err, store.ErrTaken) {
			t.Fatal(err)
		}
		return err != nil
	}
	if !taken("d", "c") {
		t.Error("two living images have one name")
	}
	update(t, db, func(tx *store.Tx) error { return tx.BuryImage("c", "DEAD", "", time.Now()) })
	if taken("d", "c") {
		t.Error("the name of a dead image is taken")
	}
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		i, err := tx.Image("a")
		i.Name = "c"
		return errors.Join(err, tx.PutImage(i, time.Now()))
	}); !errors.Is(err, store.ErrTaken) {
		t.Errorf("renamed to a name that is taken: %v", err)
	}
	update(t, db, func(tx *store.Tx) error {
		dead, err := tx.ImageEver("c")
		if dead.LoginPassword != "" || dead.DeletedAt.IsZero() || dead.State != "DEAD" {
			t.Errorf("%+v", dead)
		}
		if _, err := tx.Image("c"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a dead image is read: %v", err)
		}
		if _, err := tx.ImageNamed(""); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an image is named \"\": %v", err)
		}
		return err
	})
}

// TestMigrationOfImages makes a store as the version before has it, and opens it.
func TestMigrationOfImages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, q := range append(store.Migrations(2),
		`INSERT INTO users (guid) VALUES ('alice')`,
		`INSERT INTO images (id, name, description, state, public, owner, charged, digest, format, file_bytes, login_user, login_password, created_at, updated_at)
			VALUES ('open', 'one', '', 'ACTIVE', 1, 'alice', 0, 'sha256:00', 'raw', 5, 'u', 'p', 1, 2),
				('closed', 'two', '', 'SHARE_PENDING', 0, 'alice', 0, '', '', 0, '', '', 3, 3)`,
		`INSERT INTO images (id, name, description, state, public, owner, charged, login_user, login_password, created_at, updated_at, deleted_at)
			VALUES ('dead', 'two', '', 'DELETED', 0, 'alice', 0, '', '', 1, 2, 2)`,
		`PRAGMA user_version = 2`) {
		if _, err := raw.Exec(q); err != nil {
			t.Fatalf("%v: %.60s", err, q)
		}
	}
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	update(t, db, func(tx *store.Tx) error {
		all, err := tx.Images()
		if len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		versions := map[int64]bool{}
		for i, want := range []struct {
			visibility store.Visibility
			arrived    bool
		}{{"public", true}, {"private", false}} {
			got := all[i]
			versions[got.Version] = true
			if got.Visibility != want.visibility || got.Arrived != want.arrived || got.AskedBytes != -1 || got.Metadata == nil || got.Version == 0 {
				t.Errorf("%+v", got)
			}
		}
		if len(versions) != 2 {
			t.Errorf("versions are %v", versions)
		}
		return errors.Join(err, tx.InsertImage(image("new", "")))
	})
}

// TestVersionIsCheap: the question that each read asks does not read the images.
func TestVersionIsCheap(t *testing.T) {
	db := seeded(t)
	plan, err := store.Plan(t.Context(), db, `SELECT coalesce(max(version), 0) FROM images`)
	if want := "SEARCH images USING COVERING INDEX image_version"; err != nil || plan != want {
		t.Errorf("%q, %v", plan, err)
	}
	for q, want := range map[string]string{
		`SELECT * FROM images WHERE version > 5 AND (deleted_at IS NULL OR deleted_at >= 5) ORDER BY version`: "SEARCH images USING INDEX image_version (version>?)",
	} {
		if plan, err := store.Plan(t.Context(), db, q); err != nil || plan != want {
			t.Errorf("%q, %v", plan, err)
		}
	}
}

// TestUsageOfImages counts those that are charged at all, in the states that are.
func TestUsageOfImages(t *testing.T) {
	db := seeded(t)
	update(t, db, func(tx *store.Tx) error {
		for n, state := range []store.ImageState{"A", "A", "B", "C"} {
			i := image(fmt.Sprint(n), "")
			i.State, i.Charged = state, n != 1
			if err := tx.InsertImage(i); err != nil {
				return err
			}
		}
		for want, states := range map[int][]store.ImageState{0: nil, 1: {"A"}, 2: {"A", "C"}} {
			if got, err := tx.Usage("alice", states...); err != nil || got.Images != want {
				t.Errorf("of %v: %d, %v", states, got.Images, err)
			}
		}
		return nil
	})
}

// Whoever keeps what was read learns that it may be out of date: from every Update, also one of which nobody knows what
// came, and from no View.
func TestWrites(t *testing.T) {
	db := open(t)
	last := db.Writes()
	for _, row := range []struct {
		name string
		call func() error
		want int64
	}{
		{"a change", func() error {
			return db.Update(t.Context(), func(tx *store.Tx) error { return tx.PutUser("alice", "") })
		}, 1},
		{"a failure", func() error { return db.Update(t.Context(), func(*store.Tx) error { return errors.New("no") }) }, 1},
		{"a look", func() error { return db.View(t.Context(), func(*store.Tx) error { return nil }) }, 0},
	} {
		_ = row.call()
		if now := db.Writes(); now-last != row.want {
			t.Errorf("%s: from %d to %d", row.name, last, now)
		}
		last = db.Writes()
	}
}
