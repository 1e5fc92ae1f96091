package daemon_test

import (
	"testing"

	"github.com/capsuled/capsuled/daemon"
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
