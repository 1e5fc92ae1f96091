package daemon_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// sluggish is a libvirt that is asked how long it may take.
type sluggish struct {
	*machine
	left map[string]time.Duration
}

func (s *sluggish) note(ctx context.Context, call string) {
	until, _ := ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[call] = time.Until(until).Round(time.Second)
}

func (s *sluggish) Checkpoint(ctx context.Context, id domain.ID, cp domain.CleanPoint) error {
	s.note(ctx, "save")
	return s.machine.Checkpoint(ctx, id, cp)
}

func (s *sluggish) Restore(ctx context.Context, spec domain.Spec, ram string) error {
	s.note(ctx, "restore")
	return s.machine.Restore(ctx, spec, ram)
}

// TestLargeRAM: what takes longer the more memory a capsule has may take longer, also on the way back.
func TestLargeRAM(t *testing.T) {
	s := &sluggish{left: map[string]time.Duration{}}
	b := newBench(t, func(o *daemon.Options) { s.machine = o.Domains.(*machine); o.Domains = s })
	image := b.image()
	var few map[string]time.Duration
	for _, mb := range []int{256, 2048} {
		large := order(image)
		large.MemoryMB = mb
		v, op, err := b.CreateCapsule(t.Context(), alice, large)
		b.succeed(op, err)
		b.succeed(b.LaunchCapsule(t.Context(), alice, v.ID))
		b.succeed(b.SwitchCapsule(t.Context(), alice, v.ID, daemon.Secure, false))
		b.succeed(b.SwitchCapsule(t.Context(), alice, v.ID, daemon.Maintenance, false))
		if few == nil {
			few = maps.Clone(s.left)
		}
	}
	for call, short := range few {
		if more := s.left[call] - short; more < 50*time.Second {
			t.Errorf("to %s 2 GiB it has %v, %v longer than for 256 MiB", call, s.left[call], more)
		}
	}
	b.settled()
}
