package domain

import "context"

// Attach is not built yet.
func (h *Host) Attach(ctx context.Context, id ID, d Disk) error { return ErrUnsupported }

// SetLink is not built yet.
func (h *Host) SetLink(ctx context.Context, id ID, up bool) error { return ErrUnsupported }

// SetPassword is not built yet.
func (h *Host) SetPassword(ctx context.Context, id ID, password string) error { return ErrUnsupported }

// Pause is not built yet.
func (h *Host) Pause(ctx context.Context, id ID) error { return ErrUnsupported }

// Resume is not built yet.
func (h *Host) Resume(ctx context.Context, id ID) error { return ErrUnsupported }

// Quiet is not built yet.
func (h *Host) Quiet(ctx context.Context, id ID, quiet bool) error { return ErrUnsupported }
