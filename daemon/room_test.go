package daemon_test

import (
	"context"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// settling is a disk that is full until somebody waits for what is being given back.
type settling struct{ *machine }

func (s settling) FreeBytes(_ context.Context, want int64) (int64, error) {
	if want > 1<<20 {
		return 1 << 40, nil
	}
	return 1 << 20, nil
}

// TestCreateWaitsForRoom: a creation is not refused for room that a capsule is just giving back.
func TestCreateWaitsForRoom(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Files = settling{o.Files.(*machine)}; o.ReserveBytes = 1 << 30 })
	b.create(alice, b.image())
	b.settled()
}
