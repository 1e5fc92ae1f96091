package daemon_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
)

// TestMembers holds the permissions against the table of the contract (section 6.3), member by member: a role, the
// terms of use, and in a capsule with full access the member's own.
func TestMembers(t *testing.T) {
	for _, full := range []bool{false, true} {
		b, raw := opened(t, nil)
		id := b.create(alice, b.image())
		for _, m := range []struct{ guid, role, tou, full string }{
			{"controller", "CONTROLLER", "1", "1"},
			{"owner", "OWNER", "1", "1"},
			{"sharee", "SHAREE", "1", "1"},
			{"unwilling", "CONTROLLER", "0", "1"},
			{"pending", "CONTROLLER", "1", "0"},
			{"unasked", "CONTROLLER", "1", "NULL"},
		} {
			for _, q := range []string{
				`INSERT INTO users (guid) VALUES ('` + m.guid + `')`,
				`INSERT INTO members (capsule, guid, role, tou, full_access) VALUES ('` + id + `', '` + m.guid + `', '` + m.role + `', ` + m.tou + `, ` + m.full + `)`,
			} {
				if _, err := raw.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := raw.Exec(`UPDATE members SET role = 'OWNER_CONTROLLER', full_access = ? WHERE guid = 'alice'`, full); err != nil {
			t.Fatal(err)
		}
		// The contract has one owner; the second one here is not looked at for full access, since it says the same.
		if _, err := raw.Exec(`UPDATE members SET full_access = ? WHERE guid = 'owner'`, full); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, guid := range []string{"alice", "controller", "owner", "sharee", "unwilling", "pending", "unasked", "stranger"} {
			got[guid] = b.mayDo(daemon.Caller{GUID: guid}, id)
		}
		want := map[string]string{
			"alice": "launch stop delete", "controller": "launch stop", "owner": "delete", "sharee": "",
			"unwilling": "redacted", "pending": "launch stop", "unasked": "launch stop", "stranger": "unknown",
		}
		if full {
			want["pending"], want["unasked"] = "redacted", "redacted"
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("full access %v: %s", full, diff)
		}
	}
}

type verb func(context.Context, daemon.Caller, string) (daemon.Operation, error)

// free asks when nothing else is under way: the reconciler may have begun an operation of its own.
func (b *bench) free(ask verb, c daemon.Caller, id string) (op daemon.Operation, err error) {
	b.t.Helper()
	b.until(func() bool {
		b.idle()
		op, err = ask(b.t.Context(), c, id)
		return code(err) != daemon.Busy
	})
	return op, err
}

// mayDo says in a word or three what a caller may do with a capsule that is shut down. What is allowed is done.
func (b *bench) mayDo(c daemon.Caller, id string) (may string) {
	b.t.Helper()
	seen, err := b.ShowCapsules(b.t.Context(), c, id)
	switch {
	case code(err) == daemon.NotFound:
		may = "unknown"
	case err != nil:
		b.t.Fatal(err)
	case seen[0].Redacted:
		may = "redacted"
	}
	for _, v := range []struct {
		name       string
		ask, other verb // other brings it, for root, to where ask is possible
	}{
		{"launch", b.LaunchCapsule, nil},
		{"stop", b.StopCapsule, b.LaunchCapsule},
	} {
		if v.other != nil && b.show(id).State == daemon.Shutdown {
			b.succeed(b.free(v.other, root, id))
		}
		op, err := b.free(v.ask, c, id)
		switch code(err) {
		case "":
			b.succeed(op, err)
			may += " " + v.name
		case daemon.Forbidden:
			if may == "unknown" {
				b.t.Errorf("%s learns that the capsule exists", c.GUID)
			}
		case daemon.NotFound:
			if may != "unknown" {
				b.t.Errorf("%s may see the capsule and is told that there is none", c.GUID)
			}
		default:
			b.t.Errorf("%s by %s: %v", v.name, c.GUID, err)
		}
	}
	if b.show(id).State == daemon.Running {
		b.succeed(b.free(b.StopCapsule, root, id))
	}
	// A deletion would end the test: whether it would be let through shows in how it fails while something else is under way.
	release := b.machine.block("Define")
	launch, err := b.free(b.LaunchCapsule, root, id)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.DeleteCapsule(b.t.Context(), c, id); code(err) == daemon.Busy {
		may += " delete"
	}
	close(release)
	b.succeed(launch, nil)
	b.succeed(b.free(b.StopCapsule, root, id))
	if may != "" && may[0] == ' ' {
		may = may[1:]
	}
	return may
}
