package daemon_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// opened is a bench and the file of its records, for what no verb reads or writes yet.
func opened(t *testing.T, opt func(*daemon.Options)) (*bench, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	raw, err := sql.Open("sqlite3", path+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	b := newBench(t, func(o *daemon.Options) {
		o.Store = db
		if opt != nil {
			opt(o)
		}
	})
	b.db = db
	return b, raw
}

// act is what an audit row says of one act.
type act struct{ Actor, Origin, Action, Target, Outcome string }

func audit(t *testing.T, raw *sql.DB) (acts []act) {
	t.Helper()
	rows, err := raw.Query(`SELECT actor, origin, action, target, outcome FROM audit WHERE action <> 'image-add' ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a act
		if err := rows.Scan(&a.Actor, &a.Origin, &a.Action, &a.Target, &a.Outcome); err != nil {
			t.Fatal(err)
		}
		acts = append(acts, a)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return acts
}

// TestEveryActIsAudited does everything once, well and badly: each intent, outcome and refusal has its row.
func TestEveryActIsAudited(t *testing.T) {
	b, raw := opened(t, nil)
	image := b.image()
	id := b.create(alice, image)
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	if _, err := b.StopCapsule(t.Context(), bob, id); code(err) != daemon.NotFound {
		t.Fatal(err)
	}
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.machine.failing("Define")
	b.wait(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.well()
	b.succeed(b.DeleteCapsule(t.Context(), root, id))
	b.succeed(b.DeleteImage(t.Context(), root, image))
	want := []act{
		{"alice", "127.0.0.1", "create", id, "accepted"},
		{"alice", "127.0.0.1", "create", id, "succeeded"},
		{"alice", "127.0.0.1", "launch", id, "accepted"},
		{"alice", "127.0.0.1", "launch", id, "succeeded"},
		{"bob", "127.0.0.1", "stop", id, "refused"},
		{"alice", "127.0.0.1", "stop", id, "accepted"},
		{"alice", "127.0.0.1", "stop", id, "succeeded"},
		{"alice", "127.0.0.1", "launch", id, "accepted"},
		{"alice", "127.0.0.1", "launch", id, "failed"},
		{"root", "unix:uid=0", "delete", id, "accepted"},
		{"root", "unix:uid=0", "delete", id, "succeeded"},
		{"root", "unix:uid=0", "image-delete", image, "accepted"},
		{"root", "unix:uid=0", "image-delete", image, "succeeded"},
	}
	if diff := cmp.Diff(want, audit(t, raw)); diff != "" {
		t.Error(diff)
	}
}

// failing fails every one of some calls, before its effect, until well.
func (m *machine) failing(calls ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = func(_ int, name string) fault {
		for _, c := range calls {
			if c == name {
				return errBefore
			}
		}
		return none
	}
}
