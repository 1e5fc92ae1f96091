package imagestore

import (
	"context"
	"errors"
)

// Holder is somebody who has a file of a clone's directory open or mapped.
type Holder struct {
	PID   int    // the process, as seen in /proc; 0 for a holder that is none, such as a loop device
	Disk  string // "disk", a volume's name, "overlay", or "clean" for the saved RAM
	Write bool   // whether it can write
}

// OpenBy says who has a disk, overlay or RAM file of key open.
func (s *Store) OpenBy(ctx context.Context, key string) ([]Holder, error) {
	return nil, errors.New("imagestore: open by: not built yet")
}
