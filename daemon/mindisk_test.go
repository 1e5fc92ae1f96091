package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestMinimumDisk: the disk of a capsule is as big as its image asks for, and how it was made is told.
func TestMinimumDisk(t *testing.T) {
	b := newBench(t, nil)
	i, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "big", Path: sourcePath, Visibility: daemon.Public, MinDiskGB: 3})
	b.succeed(op, err)
	_, op, err = b.CreateCapsule(t.Context(), alice, order(i.ID))
	b.succeed(op, err)
	op, err = b.Operation(t.Context(), root, op.ID)
	b.machine.mu.Lock()
	grown := b.machine.grown
	b.machine.mu.Unlock()
	if err != nil || grown != 3<<30 || op.Steps[0].Note != "reflink" {
		t.Errorf("a disk of %d bytes, by %q, %v", grown, op.Steps[0].Note, err)
	}
	if _, _, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "too big", Path: sourcePath, MinDiskGB: daemon.MaxImageMinDisk + 1}); code(err) != daemon.Invalid {
		t.Errorf("a disk that cannot be made: %v", err)
	}
}

// TestDiskOfOwnImage: the image that a user brings does not give a capsule a bigger disk than the user may have in all; what
// an administrator brings may.
func TestDiskOfOwnImage(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*store.Image)
		own    bool
		want   daemon.Code
	}{
		"asks for much":         {func(i *store.Image) { i.MinDiskGB = 101 }, true, daemon.OverQuota},
		"is big":                {func(i *store.Image) { i.VirtualBytes = 100<<30 + 1 }, true, daemon.OverQuota},
		"just so":               {func(i *store.Image) { i.MinDiskGB, i.VirtualBytes = 100, 100<<30 }, true, ok},
		"an administrator's is": {func(i *store.Image) { i.MinDiskGB, i.VirtualBytes = 101, 101<<30 }, false, ok},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.put("i", daemon.ImageActive, c.change)
			if !c.own {
				if err := b.exec("UPDATE images SET charged = 0, visibility = 'public' WHERE id = ?", id); err != nil {
					t.Fatal(err)
				}
			}
			_, op, err := b.CreateCapsule(t.Context(), alice, order(id))
			if code(err) != c.want {
				t.Fatalf("%q, want %q: %v", code(err), c.want, err)
			}
			if err == nil {
				b.succeed(op, nil)
			}
			b.settled()
		})
	}
}
