package imagestore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/internal/testhost"
)

// TestRoomIsWaitedFor: who needs room for a clean point gets that of one that was just given up, though its blocks are still
// being given back; nobody waits who does not need it, nor longer than he wants.
func TestRoomIsWaitedFor(t *testing.T) {
	const key, large, ram = "0b8f1a54-3f0e-4d0b-9a53-2f7c7a3f6a01", 40 << 20, 32 << 20
	dir := testhost.LoopFS(t, "ext4", 64<<20)
	s, err := Open(Options{Dir: dir, ReaderGID: -1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	own, _, err := s.capsules.make(key, 0o700, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	for name, size := range map[string]int64{diskName + ".raw": 1 << 20, "large": large} {
		f, err := own.create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	giveBack := make(chan struct{})
	s.forsaken.begin(func() {
		<-giveBack
		_ = os.Truncate(filepath.Join(dir, "capsules", key, "large"), 0)
	})

	if err := s.room(t.Context(), 1<<20); err != nil {
		t.Errorf("what does not need it: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.PrepareCleanPoint(short, key, ram); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrExhausted) {
		t.Errorf("who does not wait to the end knows nothing: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(giveBack) })
	if _, err := s.PrepareCleanPoint(t.Context(), key, ram); err != nil {
		t.Errorf("refused for room that is about to be there: %v", err)
	}
	if _, err := s.PrepareCleanPoint(t.Context(), key, 2*large); !errors.Is(err, ErrExhausted) {
		t.Errorf("more than there is: %v", err)
	}
}
