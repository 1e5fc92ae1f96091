package domain_test

import (
	"testing"

	"github.com/capsuled/capsuled/domain"
)

// TestSavedMemory: a memory that somebody saved is gone once the domain was destroyed, and no start takes it up.
func TestSavedMemory(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-saved", idle)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	noErr(t, "define", h.Define(ctx, s))
	kept := func() bool {
		t.Helper()
		in, err := h.Inspect(ctx, s.ID)
		noErr(t, "inspect", err)
		return in.HasManagedSave
	}
	for what, discard := range map[string]func() error{
		"destroy": func() error { return h.Destroy(ctx, s.ID) },
		"start":   func() error { return h.Start(ctx, s.ID) },
	} {
		noErr(t, "start", h.Start(ctx, s.ID))
		virsh(t, "managedsave", s.Name)
		if !kept() {
			t.Fatal("nothing was saved")
		}
		noErr(t, what, discard())
		if kept() {
			t.Errorf("what was saved is there after %s", what)
		}
	}
	if o, err := h.ObserveOne(ctx, s.ID); err != nil || o.State == domain.Unknown {
		t.Errorf("%+v, %v", o, err)
	}
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
}
