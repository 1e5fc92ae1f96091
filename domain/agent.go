package domain

import (
	"context"
	"time"
)

// Mount is one file system that a guest is to mount.
type Mount struct {
	Serial string // of its disk
	Label  string // of the file system, looked for when no disk of that serial shows up in the guest
	Path   string // absolute, without "..": made if it is not there
	Owner  string // user that gets the top directory, if the guest has such a user; "" leaves it
}

// GuestMounts is not built yet.
func (h *Host) GuestMounts(ctx context.Context, id ID) (map[string]string, error) {
	return nil, ErrUnsupported
}

// GuestMount is not built yet.
func (h *Host) GuestMount(ctx context.Context, id ID, mounts []Mount) error { return ErrUnsupported }

// Freeze is not built yet.
func (h *Host) Freeze(ctx context.Context, id ID) (int, error) { return 0, ErrUnsupported }

// Thaw is not built yet.
func (h *Host) Thaw(ctx context.Context, id ID) (int, error) { return 0, ErrUnsupported }

// SetClock is not built yet.
func (h *Host) SetClock(ctx context.Context, id ID, now time.Time) error { return ErrUnsupported }
