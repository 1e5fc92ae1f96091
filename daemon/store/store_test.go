package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon/store"
)

func open(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "a b?c%41#.db")) // a path that a URI would mangle
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func update(t *testing.T, db *store.DB, f func(*store.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func capsule(n int) store.Capsule {
	title := "title"
	return store.Capsule{
		ID: fmt.Sprintf("id-%d", n), Key: fmt.Sprintf("cap-%d", n), State: "NEW", Mode: "NONE", Type: "T", Owner: "alice", ImageID: "image",
		VCPUs: 2, MemoryMB: 512, VolumeGB: 10, SpoolGB: 5, Generation: "g", LoginUser: "u", LoginPassword: "p", Charged: true,
		About: store.About{Title: &title}, CreatedAt: time.Unix(1000, 5000).UTC(),
		SSHPort: 100 + 2*n, VNCPort: 101 + 2*n, Address: fmt.Sprintf("10.0.0.%d", n), MAC: fmt.Sprintf("52:54:00:00:00:%02x", n),
		Version: 1, ImageUser: "iu", ImagePassword: "ip", Image: store.Image{ID: "image", Name: "name"},
	}
}

var owner = store.Member{GUID: "alice", Email: "a@example.org", Role: "OWNER", TOU: true}

// seeded has a user, an image and one capsule.
func seeded(t *testing.T) *store.DB {
	db := open(t)
	update(t, db, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutUser("alice", "a@example.org"),
			tx.InsertImage(store.Image{ID: "image", Name: "name", State: "ACTIVE", Owner: "alice", Charged: true, LoginUser: "lu", LoginPassword: "lp", CreatedAt: time.Unix(1, 0)}),
			tx.InsertCapsule(capsule(1), owner))
	})
	return db
}

func TestCapsuleComesBackAsItWas(t *testing.T) {
	db := seeded(t)
	update(t, db, func(tx *store.Tx) error {
		got, err := tx.Capsule("id-1")
		if diff := cmp.Diff(capsule(1), got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		members, err2 := tx.MembersOf("id-1")
		if diff := cmp.Diff([]store.Member{owner}, members); diff != "" {
			t.Error(diff)
		}
		return errors.Join(err, err2)
	})
}

func TestOneHolder(t *testing.T) {
	for name, change := range map[string]func(*store.Capsule){
		"ssh port":        func(c *store.Capsule) { c.SSHPort = 102 },
		"vnc as ssh port": func(c *store.Capsule) { c.SSHPort = 103 },
		"vnc port":        func(c *store.Capsule) { c.VNCPort = 103 },
		"address":         func(c *store.Capsule) { c.Address = "10.0.0.1" },
		"mac":             func(c *store.Capsule) { c.MAC = capsule(1).MAC },
		"key":             func(c *store.Capsule) { c.Key = "cap-1" },
	} {
		t.Run(name, func(t *testing.T) {
			db := seeded(t)
			second := capsule(2)
			change(&second)
			err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertCapsule(second, owner) })
			if !errors.Is(err, store.ErrTaken) {
				t.Fatalf("got %v", err)
			}
			update(t, db, func(tx *store.Tx) error { // and nothing of it was written
				all, err := tx.Capsules()
				ports, err2 := tx.HeldPorts()
				if len(all) != 1 || len(ports) != 2 {
					t.Errorf("%d capsules, %d ports", len(all), len(ports))
				}
				return errors.Join(err, err2)
			})
		})
	}
}

func TestMoveIsCompareAndSwap(t *testing.T) {
	db := seeded(t)
	var wg sync.WaitGroup
	won := make(chan int, 8)
	for i := range 8 {
		wg.Go(func() {
			err := db.Update(t.Context(), func(tx *store.Tx) error {
				return tx.MoveCapsule("id-1", []store.State{"NEW", "OLD"}, "NEXT", "M", "why")
			})
			switch {
			case err == nil:
				won <- i
			case !errors.Is(err, store.ErrStale):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d of 8 moved it", len(won))
	}
}

func TestReleaseAndBury(t *testing.T) {
	db := seeded(t)
	update(t, db, func(tx *store.Tx) error {
		before, err := tx.Usage("alice", "ACTIVE", "NEW")
		if diff := cmp.Diff(store.Usage{CPUs: 2, MemoryMB: 512, DiskGB: 10, Images: 1}, before); diff != "" {
			t.Error(diff)
		}
		return errors.Join(err, tx.ReleaseCapsule("id-1"), tx.ReleaseCapsule("id-1"), tx.BuryCapsule("id-1", time.Now()))
	})
	update(t, db, func(tx *store.Tx) error {
		after, err := tx.Usage("alice", "ACTIVE", "NEW")
		if diff := cmp.Diff(store.Usage{Images: 1}, after); diff != "" {
			t.Error(diff)
		}
		if _, err := tx.Capsule("id-1"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a buried capsule: %v", err)
		}
		ever, lives, err2 := tx.CapsuleWas("id-1")
		if !ever || lives {
			t.Errorf("ever %v, lives %v", ever, lives)
		}
		taken, err3 := tx.KeyTaken("cap-1")
		if !taken {
			t.Error("the key of a buried capsule is free")
		}
		second := capsule(2) // what it held is free again
		second.SSHPort, second.VNCPort, second.Address, second.MAC = 102, 103, "10.0.0.1", capsule(1).MAC
		return errors.Join(err, err2, err3, tx.InsertCapsule(second, owner))
	})
}

// TestSecretsAreGone looks for a console password in the bytes of the store after its capsule was buried.
func TestSecretsAreGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := capsule(1)
	c.LoginPassword = "S3CR3T!!"
	update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.PutUser("alice", ""), tx.InsertImage(store.Image{ID: "image", Name: "n", Owner: "alice", CreatedAt: time.Unix(1, 0)}), tx.InsertCapsule(c, owner))
	})
	update(t, db, func(tx *store.Tx) error { return tx.BuryCapsule("id-1", time.Now()) })
	if err := db.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The log beside the store, while the daemon still runs.
	if wal, err := os.ReadFile(path + "-wal"); err != nil || contains(wal, "S3CR3T!!") {
		t.Errorf("the password is in the %d bytes of the log: %v", len(wal), err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if i := len(b); cmp.Equal(i, 0) || contains(b, "S3CR3T!!") {
		t.Errorf("the password is in the %d bytes of the store", i)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func contains(b []byte, s string) bool {
	for i := range len(b) - len(s) + 1 {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func TestOneOpenOperation(t *testing.T) {
	db := seeded(t)
	op := store.Operation{ID: "a", Kind: "k", Target: "id-1", State: "running", Steps: []store.Step{{Name: "s", State: "pending"}}, Started: time.Unix(5, 0).UTC()}
	update(t, db, func(tx *store.Tx) error { return tx.InsertOperation(op) })
	second := op
	second.ID = "b"
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertOperation(second) }); !errors.Is(err, store.ErrTaken) {
		t.Errorf("a second open operation: %v", err)
	}
	op.State, op.Ended, op.Cut, op.Reserved = "done", time.Unix(6, 0).UTC(), new(0), "r" // none is not unknown
	update(t, db, func(tx *store.Tx) error { return errors.Join(tx.UpdateOperation(op), tx.InsertOperation(second)) })
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.UpdateOperation(op) }); !errors.Is(err, store.ErrStale) {
		t.Errorf("an ended operation was changed: %v", err)
	}
	update(t, db, func(tx *store.Tx) error {
		got, err := tx.Operation("a")
		if diff := cmp.Diff(op, got); diff != "" {
			t.Error(diff)
		}
		seen, err2 := tx.Operations("", "", "alice", 10)
		if len(seen) != 2 {
			t.Errorf("a member sees %d operations", len(seen))
		}
		unseen, err3 := tx.Operations("", "", "mallory", 10)
		if len(unseen) != 0 {
			t.Errorf("a stranger sees %d operations", len(unseen))
		}
		return errors.Join(err, err2, err3)
	})
}

func TestAuditIsAppendOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	update(t, db, func(tx *store.Tx) error { return tx.Audit(store.Act{At: time.Now(), Actor: "alice", Action: "a"}) })
	for _, q := range []string{"UPDATE audit SET actor = 'bob'", "DELETE FROM audit"} {
		if err := store.Exec(context.Background(), db, q); err == nil {
			t.Errorf("%s was let through", q)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Exec(t.Context(), db, "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if db, err := store.Open(t.Context(), path); err == nil {
		db.Close()
		t.Error("a store of a newer version was opened")
	}
}

func TestViewCannotWrite(t *testing.T) {
	db := seeded(t)
	if err := db.View(t.Context(), func(tx *store.Tx) error { return tx.PutUser("bob", "") }); err == nil {
		t.Error("a view wrote")
	}
}

// TestEndOfContext: who gives up in the middle is told that, and not what became of the transaction.
func TestEndOfContext(t *testing.T) {
	db := open(t)
	for name, run := range map[string]func(context.Context, func(*store.Tx) error) error{"view": db.View, "update": db.Update} {
		ctx, cancel := context.WithCancel(t.Context())
		err := run(ctx, func(tx *store.Tx) error {
			cancel()
			_, err := tx.Capsules()
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
