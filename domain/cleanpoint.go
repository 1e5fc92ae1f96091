package domain

import "context"

// CleanPoint is where a domain's disk and RAM can be taken back to.
type CleanPoint struct {
	Disk    string // path of the first disk, as the Spec has it
	Overlay string // an empty qcow2 image over Disk, made by the caller: the first disk from the clean point on
	RAM     string // path of the file that the RAM is saved to
}

// Checkpoint is not built yet.
func (h *Host) Checkpoint(ctx context.Context, id ID, cp CleanPoint) error { return ErrUnsupported }

// Restore is not built yet.
func (h *Host) Restore(ctx context.Context, s Spec, ram string) error { return ErrUnsupported }
