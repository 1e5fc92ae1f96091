package daemon_test

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/firewall"
)

// changed are the calls that change bindings, numbered from arm on; trouble comes before one of them, or after it.
type changed struct {
	fencesOf
	on      atomic.Bool
	n       atomic.Int64
	trouble func(n int, after bool) error
}

func (c *changed) change(do func() error) error {
	if !c.on.Load() {
		return do()
	}
	n := int(c.n.Add(1))
	if err := c.trouble(n, false); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.trouble(n, true)
}

func (c *changed) Put(ctx context.Context, b firewall.Binding) error {
	return c.change(func() error { return c.fencesOf.Put(ctx, b) })
}

func (c *changed) Apply(ctx context.Context, all []firewall.Binding) error {
	return c.change(func() error { return c.fencesOf.Apply(ctx, all) })
}

// policy is what the kernel has for a capsule.
func (b *bench) policy(id string) string {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	return b.machine.bindings["cap-"+id[:8]].Policy
}

// outcomes are the records of a capsule's changes of type, oldest first.
func (b *bench) outcomes(id string) (list []string) {
	b.t.Helper()
	all, err := b.SwitchRecords(b.t.Context(), root, id)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range all {
		if r.Kind != "enter" {
			list = append([]string{r.Kind + " " + r.Outcome + " " + r.Policy}, list...)
		}
	}
	return list
}

// typeRows are the outcomes in the audit trail of changes of types.
func typeRows(t *testing.T, raw *sql.DB) (list []string) {
	for _, a := range audit(t, raw) {
		if a.Action == "set-type" {
			list = append(list, a.Outcome)
		}
	}
	return list
}

// TestTypeRefused: a change of type that the firewall or the disk does not carry out is told, and leaves the capsule as it
// was, or held; chain and audit trail never say that it succeeded.
func TestTypeRefused(t *testing.T) {
	const open, shut, back = 2, 1, 3 // the calls of a change that fails: closed, opened, put back
	tests := []struct {
		name        string
		fails       []int
		after       bool
		full        string // the writes that the disk has no room for
		state       daemon.State
		kernel      string
		chain, rows []string
	}{
		{name: "closed", fails: []int{shut}, state: daemon.Running, kernel: "secure", rows: []string{"refused"}},
		{name: "closed, told as failed", fails: []int{shut}, after: true, state: daemon.Running, kernel: "secure", rows: []string{"refused"}},
		{name: "closed, and not put back", fails: []int{shut, open}, state: daemon.Failed, chain: []string{"hold succeeded "}, rows: []string{"refused"}},
		{name: "opened", fails: []int{open}, state: daemon.Running, kernel: "secure",
			chain: []string{"set-type accepted secure-full", "set-type failed secure"}, rows: []string{"accepted", "failed"}},
		{name: "opened, told as failed", fails: []int{open}, after: true, state: daemon.Running, kernel: "secure",
			chain: []string{"set-type accepted secure-full", "set-type failed secure"}, rows: []string{"accepted", "failed"}},
		{name: "opened, and not put back", fails: []int{open, back}, state: daemon.Failed,
			chain: []string{"set-type accepted secure-full", "set-type failed secure", "hold succeeded "}, rows: []string{"accepted", "failed"}},
		{name: "accepted", full: "NEW.outcome = 'accepted' AND NEW.action = 'set-type'", state: daemon.Running, kernel: "secure", rows: []string{"refused"}},
		{name: "failed, and not written", fails: []int{open}, full: "NEW.outcome = 'failed'", state: daemon.Failed,
			chain: []string{"set-type accepted secure-full", "hold succeeded "}, rows: []string{"accepted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &changed{}
			b, raw := opened(t, func(o *daemon.Options) { c.fencesOf = o.Fences.(fencesOf); o.Fences = c })
			id := b.secured()
			b.idle()
			c.trouble = func(n int, after bool) error {
				for _, f := range tt.fails {
					if n == f && after == tt.after {
						return firewall.ErrUnavailable
					}
				}
				return nil
			}
			if tt.full != "" {
				if _, err := raw.Exec("CREATE TRIGGER full BEFORE INSERT ON audit WHEN " + tt.full + " BEGIN SELECT RAISE(ABORT, 'no room'); END"); err != nil {
					t.Fatal(err)
				}
			}
			c.on.Store(true)
			if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); err == nil {
				t.Error("it is told as done")
			}
			b.idle()
			c.on.Store(false)
			now := b.show(id)
			wanted := daemon.Research
			if strings.Contains(tt.name, "not written") {
				wanted = daemon.ResearchFull // its record says so, and it is held
			}
			if now.State != tt.state || now.Mode != daemon.Secure || now.Type != wanted || b.policy(id) != tt.kernel {
				t.Errorf("%s %s in %s, under %q: %s", now.Type, now.State, now.Mode, b.policy(id), now.Cause)
			}
			if diff := cmp.Diff(tt.chain, b.outcomes(id)); diff != "" {
				t.Error("chain:", diff)
			}
			if diff := cmp.Diff(tt.rows, typeRows(t, raw)); diff != "" {
				t.Error("audit trail:", diff)
			}
			if tt.full != "" {
				if _, err := raw.Exec("DROP TRIGGER full"); err != nil {
					t.Fatal(err)
				}
			}
			if now.State == daemon.Failed {
				b.succeed(b.free(b.ResumeCapsule, root, id))
			}
			b.settled()
			if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); err != nil { // it can be asked again
				t.Fatal(err)
			}
			if b.policy(id) != "secure-full" {
				t.Errorf("under %q", b.policy(id))
			}
			b.settled()
		})
	}
}

// TestDeathInSetType kills the daemon before and after each change of the rules that a change of type makes, one that goes
// well and one that the firewall refuses. At no instant does the kernel let through more than the newest record says, and the
// next start brings both together.
func TestDeathInSetType(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			for n := 1; n <= 3; n++ {
				if n == 3 && !refuses {
					continue // there is nothing to put back
				}
				t.Run(fmt.Sprintf("refused %t, after %t, %d", refuses, after, n), func(t *testing.T) {
					c := &changed{}
					b := newBench(t, func(o *daemon.Options) {
						if c.fencesOf.machine == nil {
							c.fencesOf = o.Fences.(fencesOf)
							o.Fences = c
						}
					})
					id := b.secured()
					b.idle()
					struck := false
					c.trouble = func(i int, ends bool) error {
						if i == n && ends == after && !struck {
							struck = true
							runtime.Goexit() // what follows is never done
						}
						if i == 2 && refuses && !ends {
							return firewall.ErrUnavailable
						}
						return nil
					}
					c.on.Store(true)
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						_ = b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull)
					}()
					<-ended
					b.kill()
					if struck == (n == 2 && refuses && after) { // a refusal has no end
						t.Fatal("killed:", struck)
					}
					told := "secure"
					if list := b.outcomes(id); len(list) > 0 {
						told = list[len(list)-1][strings.LastIndex(list[len(list)-1], " ")+1:]
					}
					if p := b.policy(id); p != firewall.Closed && p != told {
						t.Errorf("dead under %q, and the newest record says %q", p, told)
					}
					b.start()
					b.idle()
					now := b.show(id)
					if now.State != daemon.Running || b.policy(id) != told || (now.Type == daemon.ResearchFull) != (told == "secure-full") {
						t.Errorf("%s %s under %q, and the newest record says %q: %s", now.Type, now.State, b.policy(id), told, now.Cause)
					}
					b.settled()
				})
			}
		}
	}
}

// TestTypeWhileClosed: one that could not be proved safe, and is not held yet for the disk is full, is not opened by a change
// of its type.
func TestTypeWhileClosed(t *testing.T) {
	b, raw := opened(t, nil)
	id := b.secured()
	b.idle()
	if _, err := raw.Exec("CREATE TRIGGER full BEFORE INSERT ON operations BEGIN SELECT RAISE(ABORT, 'no room'); END"); err != nil {
		t.Fatal(err)
	}
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	b.machine.faultAt("Apply")
	b.until(func() bool { return b.show(id).Observed == "paused" })
	b.machine.well()
	if err := b.SetCapsuleType(t.Context(), root, id, daemon.ResearchFull); code(err) != daemon.Busy {
		t.Errorf("its type is changed: %v", err)
	}
	if p := b.policy(id); p != firewall.Closed {
		t.Errorf("opened, to %q", p)
	}
	if _, err := raw.Exec("DROP TRIGGER full"); err != nil {
		t.Fatal(err)
	}
}
