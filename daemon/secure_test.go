package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// launched is a capsule that runs in maintenance mode.
func (b *bench) launched() string {
	b.t.Helper()
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(b.t.Context(), alice, id))
	return id
}

// secured is a capsule in secure mode.
func (b *bench) secured() string {
	b.t.Helper()
	id := b.launched()
	b.succeed(b.SwitchCapsule(b.t.Context(), alice, id, daemon.Secure, false))
	return id
}

// hold has the verifier find a device that nobody should have, and takes it away again once the capsule is held.
func (b *bench) hold(id string) {
	b.t.Helper()
	b.machine.mu.Lock()
	b.machine.alien[domain.ID(id)] = "a host device"
	b.machine.mu.Unlock()
	if err := b.VerifyAll(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.idle()
	b.machine.mu.Lock()
	delete(b.machine.alien, domain.ID(id))
	b.machine.mu.Unlock()
	if c := b.show(id); c.State != daemon.Failed || !strings.Contains(c.Cause, "a host device") {
		b.t.Fatalf("the capsule is not held: %s, %s", c.State, c.Cause)
	}
}

// TestRoundTrip goes through both modes three times.
func TestRoundTrip(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	for range 3 {
		b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
		if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure || c.Cause != "" {
			t.Fatalf("%s, %s, %q", c.State, c.Mode, c.Cause)
		}
		b.settled()
		b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
		if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance || c.Cause != "" {
			t.Fatalf("%s, %s, %q", c.State, c.Mode, c.Cause)
		}
		b.settled()
	}
	records, err := b.SwitchRecords(t.Context(), alice, id)
	if err != nil || len(records) != 6 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, r := range records {
		if i > 0 && records[i-1].Previous != r.Hash {
			t.Errorf("record %d does not follow from %d", records[i-1].Seq, r.Seq)
		}
		if r.Outcome != "succeeded" || r.RulesHash == "" || r.DomainHash == "" || len(r.Steps) == 0 || r.Actor != "alice" {
			t.Errorf("record %+v", r)
		}
	}
	p, err := b.Prove(t.Context(), alice, id)
	if err != nil || !p.Proved {
		t.Errorf("proof %+v, %v", p, err)
	}
}
