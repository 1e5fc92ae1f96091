package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// DropOverlay destroys the overlay of key: what was written since the clean point is gone. The file loses its name,
// then its blocks, so that they are given back even while somebody holds it open; call it when nothing runs on it.
// Absent is nil, it is durable, and a call after a crash finishes what was begun. As with [Store.Erase], blocks given
// back are not overwritten: whether they can be read from the bare disk is a matter of its encryption or discard.
// ErrInvalid if key is no UUID.
func (s *Store) DropOverlay(ctx context.Context, key string) error {
	return s.drop(ctx, "drop overlay of", key, func(name string) bool { return name == overlayFile }, (*directory).discard)
}

// DropRAM destroys the saved RAM of key, as [Store.DropOverlay] does the overlay, but that its blocks, of which there may
// be gigabytes, are given back after it returned. What needs their room waits for them ([Store.FreeBytes]).
func (s *Store) DropRAM(ctx context.Context, key string) error {
	return s.drop(ctx, "drop RAM of", key, func(name string) bool { return name == ramFile }, s.forsake)
}

// DropSerialLog destroys the console's log of key and the older ones that virtlogd has moved aside (serial.log.0 and
// on), as [Store.DropOverlay] does the overlay. Call it when no domain runs: virtlogd would write on, to a file
// without a name.
func (s *Store) DropSerialLog(ctx context.Context, key string) error {
	return s.drop(ctx, "drop serial log of", key, isSerialLog, (*directory).discard)
}

// isSerialLog tells the log and its rotated predecessors by their names.
func isSerialLog(name string) bool {
	number, rotated := strings.CutPrefix(name, serialLog+".")
	return name == serialLog || rotated && number != "" && strings.Trim(number, "0123456789") == ""
}

// drop destroys those files of key whose names match, each by means of one, and goes on after an error.
func (s *Store) drop(ctx context.Context, verb, key string, match func(name string) bool, one func(d *directory, name string) error) error {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return failed(verb, fmt.Sprintf("%.80q", key), err)
	}
	defer s.keys.lock(key)()
	dir, err := s.capsules.at(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed(verb, key, err)
	}
	defer dir.close()
	names, err := dir.names()
	errs := []error{err}
	for _, n := range names {
		if whole := strings.TrimPrefix(n, partialPrefix); match(whole) {
			errs = append(errs, one(dir, whole))
		}
	}
	if err := errors.Join(append(errs, dir.sync())...); err != nil {
		return failed(verb, key, err)
	}
	return nil
}

// discard destroys one file; absent is nil. It takes the name away first, so that after a crash the file is there
// whole or not at all, and under the name that a sweep removes.
func (d *directory) discard(name string) error {
	doomed := partialPrefix + name
	err := d.emptyAndRemove(doomed) // an earlier attempt came this far
	if err == nil {
		err = d.rename(name, d, doomed)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.emptyAndRemove(doomed)
}

// emptyAndRemove gives back a file's blocks and unlinks it in any case; absent is nil.
func (d *directory) emptyAndRemove(name string) error {
	err := d.empty(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.removeAll(name))
}

// forsake takes a file's name away, and has its blocks given back while nobody waits: the kernel takes a quarter of a second
// for a GiB of them. If this process ends first, it gives them back by itself. Absent is nil.
func (s *Store) forsake(d *directory, name string) error {
	var errs []error
	for _, n := range []string{name, partialPrefix + name} {
		f, err := d.openat(n, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, d.removeAll(n))
		if err != nil { // not a file, perhaps a link: nothing to give back
			continue
		}
		s.forsaken.begin(func() {
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink == 0 { // it has no second name, see empty
				_ = f.Truncate(0) // for the case that somebody holds it open; else the end of f does it
			}
			_ = f.Close()
		})
	}
	return errors.Join(errs...)
}

// leaving is work that goes on while nobody waits for it, each piece by the channel that is closed at its end. A
// sync.WaitGroup would not do: it may not be waited for while more begins.
type leaving struct {
	mu sync.Mutex
	of map[chan struct{}]bool
}

func (l *leaving) begin(work func()) {
	ended := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[chan struct{}]bool{}
	}
	l.of[ended] = true
	go func() {
		work()
		l.mu.Lock()
		delete(l.of, ended)
		l.mu.Unlock()
		close(ended)
	}()
}

// wait waits for what is under way now, and not for what begins meanwhile.
func (l *leaving) wait(ctx context.Context) error {
	l.mu.Lock()
	all := slices.Collect(maps.Keys(l.of))
	l.mu.Unlock()
	for _, ended := range all {
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
