package daemon_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/firewall"
)

// hung is a firewall whose programs hang: one call at a time, each given up after a while of its own, whatever its context.
type hung struct {
	fencesOf
	on   atomic.Bool
	hung atomic.Int32 // calls
	turn chan struct{}
	shut chan string // taps that were taken down
}

func (h *hung) wait(ctx context.Context, what func() error) error {
	if !h.on.Load() {
		return what()
	}
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return firewall.ErrUnavailable
	}
	h.hung.Add(1)
	time.Sleep(2500 * time.Millisecond)
	<-h.turn
	return firewall.ErrUnavailable
}

func (h *hung) Apply(ctx context.Context, all []firewall.Binding) error {
	return h.wait(ctx, func() error { return h.fencesOf.Apply(ctx, all) })
}

func (h *hung) Put(ctx context.Context, b firewall.Binding) error {
	return h.wait(ctx, func() error { return h.fencesOf.Put(ctx, b) })
}

func (h *hung) Drop(ctx context.Context, tap string) error {
	return h.wait(ctx, func() error { return h.fencesOf.Drop(ctx, tap) })
}

func (h *hung) Verify(ctx context.Context) (drift []string, err error) {
	err = h.wait(ctx, func() error { drift, err = h.fencesOf.Verify(ctx); return err })
	return drift, err
}

func (h *hung) Shut(tap string) error {
	if h.on.Load() {
		h.shut <- tap
	}
	return nil
}

// TestHangDelaysNobody: the firewall's programs hang, and a crowd of launches waits to change rules when somebody takes
// the rules of a capsule in secure mode away. Its link is down three seconds on, before more than a few of them have hung, and
// it is paused soon after, wherever the watcher stands among those who wait.
func TestHangDelaysNobody(t *testing.T) {
	h := &hung{turn: make(chan struct{}, 1), shut: make(chan string, 1000)}
	b := newBench(t, func(o *daemon.Options) {
		o.Patience = time.Minute
		h.fencesOf = o.Fences.(fencesOf)
		o.Fences = h
	})
	image := b.image()
	id := b.create(alice, image)
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.succeed(b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false))
	var crowd []string
	for range 3 {
		crowd = append(crowd, b.create(alice, image))
	}
	h.on.Store(true)
	for _, other := range crowd {
		if _, err := b.LaunchCapsule(t.Context(), alice, other); err != nil {
			t.Fatal(err)
		}
	}
	b.machine.mu.Lock()
	b.machine.flushed["cap-"+id[:8]] = true
	b.machine.mu.Unlock()
	before := h.hung.Load()
	for tap := ""; tap != "cap-"+id[:8]; tap = <-h.shut {
	}
	if n := h.hung.Load() - before; n > 3 {
		t.Errorf("its link is down when %d calls have hung", n)
	}
	b.until(func() bool { return b.show(id).Observed == "paused" })
	if n := h.hung.Load() - before; n > 6 {
		t.Errorf("it is paused when %d calls have hung", n)
	}
	h.on.Store(false)
	b.idle()
	b.succeed(b.free(b.ResumeCapsule, root, id))
	b.settled()
}
