package daemon_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall/policy"
)

// TestUnmendableBetweenModes: rules vanish while a capsule on its way has its data, and cannot be put back. It does not
// run on, and the switch ends without it running with data, however it goes.
func TestUnmendableBetweenModes(t *testing.T) {
	for _, way := range []struct {
		name string
		at   string // the call in which rules vanish
		mode daemon.Mode
	}{{"into secure mode", "GuestMount", daemon.Secure}, {"out of it", "Freeze", daemon.Maintenance}} {
		t.Run(way.name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.launched()
			if way.mode == daemon.Maintenance {
				b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
			}
			_, release := b.machine.hold(way.at)
			wait := b.machine.fault
			reached := make(chan struct{})
			gone := false
			b.machine.mu.Lock()
			b.machine.fault = func(n int, call string) fault { // the machine is locked
				if call == way.at && !gone {
					gone = true
					b.machine.flushed["cap-"+id[:8]] = true
					close(reached)
				}
				if gone && (call == "Apply" || call == "Put") {
					return errBefore
				}
				return wait(n, call)
			}
			b.machine.mu.Unlock()
			op, err := b.SwitchCapsule(t.Context(), alice, id, way.mode, false)
			if err != nil {
				t.Fatal(err)
			}
			<-reached
			b.until(func() bool { return b.show(id).Observed == "paused" })
			release()
			if op = b.wait(op, nil); op.State != daemon.OperationFailed {
				t.Errorf("%s to %s without rules", op.State, way.mode)
			}
			if c := b.show(id); c.State != daemon.Failed || c.Observed == "running" {
				t.Errorf("%s in %s, %s", c.State, c.Mode, c.Observed)
			}
			b.machine.well()
			b.resumed(id)
		})
	}
}

// TestProveOnTheWay: a switch that is as it should be is no failed proof, nor a proof; and what must not be at any instant
// is a failed one all the same.
func TestProveOnTheWay(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	reached, release := b.machine.hold("GuestMount")
	op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	p, err := b.Prove(t.Context(), alice, id)
	if err != nil || p.Proved || !p.Unknown {
		t.Errorf("proved %t, unknown %t: %+v, %v", p.Proved, p.Unknown, p.Checks, err)
	}
	b.machine.mu.Lock()
	bound := b.machine.bindings["cap-"+id[:8]]
	open := bound
	open.Policy = "maintenance"
	b.machine.bindings["cap-"+id[:8]] = open
	b.machine.mu.Unlock()
	p, err = b.Prove(t.Context(), alice, id)
	if err != nil || p.Proved || p.Unknown {
		t.Errorf("open with its data: proved %t, unknown %t, %v", p.Proved, p.Unknown, err)
	}
	b.machine.mu.Lock()
	b.machine.bindings["cap-"+id[:8]] = bound
	if len(b.machine.broken) == 0 {
		t.Error("nobody noticed")
	}
	b.machine.broken = nil // that was meant
	b.machine.mu.Unlock()
	release()
	b.succeed(op, nil)
	b.settled()
}

// TestPolicyChangedWhileAway: a policy that says something else after a restart leaves a record of each capsule under it
// and an audit row, once.
func TestPolicyChangedWhileAway(t *testing.T) {
	digest := "before"
	b, raw := opened(t, func(o *daemon.Options) {
		read := o.Policies
		o.Policies = func() ([]policy.Policy, error) {
			all, err := read()
			for i := range all {
				all[i].Digest = digest
			}
			return all, err
		}
	})
	id := b.secured()
	for range 2 {
		b.kill()
		digest = "after"
		b.start()
	}
	records, err := b.SwitchRecords(t.Context(), alice, id)
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if r := records[0]; r.Kind != "read-policies" || r.PolicyDigest != "after" || r.Policy != "secure" || r.Actor != "daemon" || records[1].PolicyDigest != "before" {
		t.Errorf("%+v", records)
	}
	if n := len(details(t, raw, "read-policies")); n != 2 { // the first time that there were any, and the change
		t.Errorf("%d audit rows", n)
	}
}

// TestConsolePassword: it is another one after entering and after leaving, and what is shown is what the console has,
// also when the way in fails.
func TestConsolePassword(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	seen := map[string]bool{}
	look := func(when string, want int) {
		t.Helper()
		c := b.show(id)
		b.machine.mu.Lock()
		has := b.machine.consoles[domain.ID(id)]
		b.machine.mu.Unlock()
		if seen[has] = true; c.LoginPassword != has || len(seen) != want {
			t.Errorf("%s: %q is shown, the console has %q, and there were %d in all", when, c.LoginPassword, has, len(seen))
		}
	}
	look("launched", 1)
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	look("in secure mode", 2)
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	look("back", 3)
	b.machine.faultAt("SetPassword")
	b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.machine.well()
	look("after an entry that failed", 3)
}

// TestClockAfterFailedEntry: a guest that came back from its clean point is told the time.
func TestClockAfterFailedEntry(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.faultAt("Attach")
	b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.machine.well()
	if restored, told := b.called("Restore"), b.called("SetClock"); restored != 1 || told != 1 {
		t.Errorf("restored %d times, told the time %d times", restored, told)
	}
	b.settled()
}

// TestDriftIsToldOnce: what cannot be restored is counted and audited when it is found, not at every look.
func TestDriftIsToldOnce(t *testing.T) {
	var reg *prometheus.Registry
	b, raw := opened(t, func(o *daemon.Options) { reg = o.Registerer.(*prometheus.Registry) })
	id := b.secured()
	b.machine.faultAt("Apply")
	told := func(want int) {
		t.Helper()
		for range 3 {
			_ = b.VerifyAll(t.Context())
		}
		if diff := cmp.Diff(map[string]float64{"rules": float64(want)}, scrape(t, reg, "capsule_policy_drift_total")); diff != "" {
			t.Error(diff)
		}
	}
	flush := func() {
		b.machine.mu.Lock()
		b.machine.flushed["cap-"+id[:8]] = true
		b.machine.mu.Unlock()
	}
	flush()
	told(1)
	b.machine.well()
	told(1)
	b.succeed(b.free(b.ResumeCapsule, root, id)) // it was held for it
	told(1)
	flush()
	told(2)
	b.until(func() bool { return len(details(t, raw, "restore-firewall")) == 2 })
	for _, detail := range details(t, raw, "restore-firewall") {
		if !strings.Contains(detail, "is gone") {
			t.Errorf("audit row %q", detail)
		}
	}
}

// details are what the audit trail says of every act of one kind.
func details(t *testing.T, raw *sql.DB, action string) (all []string) {
	t.Helper()
	rows, err := raw.Query(`SELECT detail FROM audit WHERE action = ? ORDER BY seq`, action)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// TestWatcherIsAudited: what the watcher restores by itself is in the audit trail, though it takes no time.
func TestWatcherIsAudited(t *testing.T) {
	b, raw := opened(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	b.until(func() bool { return len(details(t, raw, "restore-firewall")) == 1 })
}
