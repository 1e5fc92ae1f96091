package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
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
	records, err := b.SwitchRecords(t.Context(), root, id)
	if err != nil || len(records) != 6 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, r := range records {
		if i > 0 && records[i-1].Previous != r.Hash {
			t.Errorf("record %d does not follow from %d", records[i-1].Seq, r.Seq)
		}
		entered := r.Kind == "enter"
		if r.Outcome != "succeeded" || r.RulesHash == "" || r.DomainHash == "" || len(r.Steps) == 0 || r.Actor != "alice" || r.Cut == nil || *r.Cut != 2 || (len(r.Volumes) == 2) != entered || r.CleanPoint == "" {
			t.Errorf("record %+v", r)
		}
	}
	p, err := b.Prove(t.Context(), alice, id)
	if err != nil || !p.Proved {
		t.Errorf("proof %+v, %v", p, err)
	}
}

// faultAt fails every call of one name.
func (m *machine) faultAt(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = func(_ int, call string) fault {
		if call == name {
			return errBefore
		}
		return none
	}
}

// TestFailedEnter: wherever entering fails, the capsule runs on in maintenance mode and can be asked again.
func TestFailedEnter(t *testing.T) {
	for _, call := range []string{"Checkpoint", "PrepareCleanPoint", "Attach", "Quiet", "Disconnect", "SetPassword"} {
		t.Run(call, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.launched()
			b.machine.faultAt(call)
			op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
			if op.State != daemon.OperationFailed || op.Cause == "" {
				t.Fatalf("%s: %s", op.State, op.Cause)
			}
			b.machine.well()
			c := b.show(id)
			if c.State != daemon.Running || c.Mode != daemon.Maintenance {
				if call == "Quiet" { // it fails the way back too: then the capsule is held
					b.resumed(id)
					return
				}
				t.Fatalf("%s in %s: %s", c.State, c.Mode, c.Cause)
			}
			if !strings.Contains(c.Cause, "enter") || c.Observed != "running" {
				t.Errorf("%s, %q", c.Observed, c.Cause)
			}
			b.settled()
			b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
			b.settled()
		})
	}
}

// resumed brings a held capsule back to maintenance.
func (b *bench) resumed(id string) {
	b.t.Helper()
	if c := b.show(id); c.State != daemon.Failed || c.Mode == daemon.NotDefined {
		b.t.Fatalf("%s in %s is not held", c.State, c.Mode)
	}
	b.succeed(b.free(b.ResumeCapsule, root, id))
	b.settled()
}

// TestHeld: what the verifier cannot prove is closed and paused, and goes on where it was once it can be proved.
func TestHeld(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.hold(id)
	if c := b.show(id); c.Mode != daemon.Secure || c.Observed != "paused" {
		t.Fatalf("in %s, %s", c.Mode, c.Observed)
	}
	b.machine.mu.Lock()
	if p := b.machine.bindings["cap-"+id[:8]].Policy; p != "" {
		t.Errorf("held under policy %q", p)
	}
	b.machine.domains[domain.ID(id)].state = domain.Running // somebody resumes it
	b.machine.mu.Unlock()
	b.machine.events <- domain.Event{ID: domain.ID(id)}
	b.until(func() bool { return b.show(id).Observed == "paused" })
	b.idle()
	if _, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false); code(err) != daemon.Conflict {
		t.Errorf("a held capsule enters: %v", err)
	}
	if _, err := b.ResumeCapsule(t.Context(), alice, id); code(err) != daemon.Forbidden {
		t.Errorf("a member takes a capsule that could not be proved safe back to secure mode: %v", err)
	}
	b.succeed(b.free(b.ResumeCapsule, root, id))
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure || c.Observed != "running" {
		t.Fatalf("%s in %s, %s", c.State, c.Mode, c.Observed)
	}
	b.settled()
}

// TestUnmendableFirewall: rules that cannot be put back pause who depends on them.
func TestUnmendableFirewall(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	b.machine.faultAt("Apply")
	b.until(func() bool { return b.show(id).State == daemon.Failed })
	b.machine.well()
	b.idle()
	if c := b.show(id); c.Observed != "paused" || !strings.Contains(c.Cause, "firewall") {
		t.Fatalf("%s, %q", c.Observed, c.Cause)
	}
	b.succeed(b.free(b.ResumeCapsule, root, id))
	b.settled()
}

// TestMuteGuest: a guest that answers nothing is told of and changes nothing.
func TestMuteGuest(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mute = true
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	if c := b.show(id); c.Mode != daemon.Secure || !strings.Contains(c.Cause, "did not mount") {
		t.Errorf("in %s: %q", c.Mode, c.Cause)
	}
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	if c := b.show(id); c.Mode != daemon.Maintenance || !strings.Contains(c.Cause, "clock") {
		t.Errorf("in %s: %q", c.Mode, c.Cause)
	}
	b.settled()
}

// TestGuestNumbers: what a guest in secure mode answers is in no operation and no record.
func TestGuestNumbers(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	records, err := b.SwitchRecords(t.Context(), alice, id)
	if err != nil || op.State != daemon.OperationSucceeded {
		t.Fatal(op, err)
	}
	if said := fmt.Sprint(op, records); strings.Contains(said, fmt.Sprint(guestNumber)) {
		t.Error("the guest's number is told:", said)
	}
}

// TestPolicyFollows: type, review and reload change the policy of a capsule in secure mode at once.
func TestPolicyFollows(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	inForce := func(want string) {
		t.Helper()
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		if p := b.machine.bindings["cap-"+id[:8]].Policy; p != want {
			t.Errorf("policy %q, want %q", p, want)
		}
	}
	inForce("secure")
	if err := b.SetCapsuleType(t.Context(), alice, id, daemon.ResearchFull); code(err) != daemon.Forbidden {
		t.Errorf("a member changes the type: %v", err)
	}
	if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); err != nil {
		t.Fatal(err)
	}
	inForce("secure-full")
	records, err := b.SwitchRecords(t.Context(), alice, id)
	if err != nil || records[0].Kind != "set-type" || records[0].Policy != "secure-full" || records[0].Actor != "root" {
		t.Errorf("records %+v, %v", records, err)
	}
	if err := b.SetCapsuleType(t.Context(), root, id, daemon.Demo); err != nil {
		t.Fatal(err)
	}
	inForce("secure")
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	inForce("maintenance")
	if _, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, true); code(err) != daemon.Forbidden {
		t.Errorf("a member reviews: %v", err)
	}
	b.succeed(b.SwitchCapsule(t.Context(), root, id, daemon.Secure, true))
	inForce("secure-admin")
	b.kill()
	b.start()
	inForce("secure-admin")
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Maintenance, false))
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	inForce("secure")
	b.settled()
}

// TestSwitchRefusals: what cannot be switched is refused in words, and nothing is begun.
func TestSwitchRefusals(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	refuse := func(c daemon.Caller, mode daemon.Mode, want daemon.Code, words string) {
		t.Helper()
		_, err := b.SwitchCapsule(t.Context(), c, id, mode, false)
		if code(err) != want || !strings.Contains(err.Error(), words) {
			t.Errorf("to %s: %v, want %s with %q", mode, err, want, words)
		}
	}
	refuse(alice, daemon.Secure, daemon.Conflict, "needs it to be RUNNING")
	refuse(bob, daemon.Secure, daemon.NotFound, "no capsule")
	refuse(alice, "BOTH", daemon.Invalid, "must be MAINTENANCE or SECURE")
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	refuse(alice, daemon.Maintenance, daemon.Conflict, "needs it to be in SECURE")
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	refuse(alice, daemon.Secure, daemon.Conflict, "needs it to be in MAINTENANCE")
	if _, err := b.ResumeCapsule(t.Context(), root, id); code(err) != daemon.Conflict {
		t.Errorf("a capsule that is not held is resumed: %v", err)
	}
	if _, err := b.Prove(t.Context(), bob, id); code(err) != daemon.NotFound {
		t.Errorf("a stranger gets a proof: %v", err)
	}
	if _, err := b.ShowPolicy(t.Context(), alice, id); code(err) != daemon.Forbidden {
		t.Errorf("a member sees the rules: %v", err)
	}
	b.settled()
}

// TestOlderRecords restores a backup of the records from before a capsule entered secure mode: the capsule is closed at
// once though its record says that it has a network, and held; a stop brings it back.
func TestOlderRecords(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	b.kill()
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.PutCleanPoint(id, "", ""),
			tx.MoveCapsule(id, []daemon.State{daemon.Running}, daemon.Running, daemon.Maintenance, ""))
	}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.idle()
	if c := b.show(id); c.State != daemon.Failed || c.Observed != "paused" || !strings.Contains(c.Cause, "volumes open") {
		t.Errorf("%s in %s, %s: %q", c.State, c.Mode, c.Observed, c.Cause)
	}
	if _, err := b.ResumeCapsule(t.Context(), root, id); code(err) != daemon.Conflict {
		t.Errorf("it is resumed: %v", err)
	}
	b.succeed(b.free(b.StopCapsule, alice, id))
	b.settled()
}

// TestVerifierOfMany: of several capsules in secure mode, read at once, the one that cannot be proved is held and the
// others go on.
func TestVerifierOfMany(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	var ids []string
	for range 3 {
		id := b.create(alice, image)
		b.succeed(b.LaunchCapsule(t.Context(), alice, id))
		b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
		ids = append(ids, id)
	}
	b.hold(ids[1])
	for _, id := range []string{ids[0], ids[2]} {
		if c := b.show(id); c.State != daemon.Running || c.Observed != "running" {
			t.Errorf("%s, %s: %s", c.State, c.Observed, c.Cause)
		}
	}
}

// TestOlderMachine: a capsule that could not come back is not taken to secure mode, and runs on as if it had not been asked.
func TestOlderMachine(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	b.machine.mu.Lock()
	b.machine.older[domain.ID(id)] = true
	b.machine.mu.Unlock()
	op := b.wait(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	if op.State != daemon.OperationFailed || !strings.Contains(op.Cause, "stop and launch it") {
		t.Fatalf("%s: %s", op.State, op.Cause)
	}
	if n := b.called("Destroy") + b.called("Checkpoint"); n > 0 {
		t.Errorf("it was touched %d times", n)
	}
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance || c.Observed != "running" {
		t.Errorf("%s in %s, %s", c.State, c.Mode, c.Observed)
	}
	b.settled()
}

// TestProofsWaitForOneAnother: however many callers ask for proofs, two at most look at the kernel; the others wait, and
// are told when they have waited in vain.
func TestProofsWaitForOneAnother(t *testing.T) {
	b := newBench(t, nil)
	id := b.secured()
	release := b.machine.block("InspectFence")
	before := b.looks()
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error, 8)
	for range 8 {
		go func() { _, err := b.Prove(ctx, alice, id); answers <- err }()
	}
	b.until(func() bool { return b.looks() == before+2 })
	cancel()
	for range 6 {
		if err := <-answers; code(err) != daemon.Unavailable {
			t.Errorf("who waits is told %v", err)
		}
	}
	if n := b.looks() - before; n != 2 {
		t.Errorf("%d callers looked at once", n)
	}
	close(release)
	<-answers
	<-answers
}

// looks counts the callers that look, or wait in the middle of it.
func (b *bench) looks() int64 { return b.machine.looking.Load() }
