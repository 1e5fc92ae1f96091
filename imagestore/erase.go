package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Erase destroys the clone directory of key and all that is in it. The directory first gets a name that only
// root knows the way to, so for everybody else it vanishes at once; then its files are emptied, so that a
// process which still holds one open reads nothing more, and unlinked. What has another name, as a pin of an
// image that is still there, is only unlinked: its bytes belong to others. Symbolic links are removed, not followed. Absent is nil, and a call after a crash
// finishes what was begun. Blocks given back to the file system are not overwritten: whether they can be read
// from the bare disk is a matter of its encryption or discard.
func (s *Store) Erase(ctx context.Context, key string) error {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return failed("erase", fmt.Sprintf("%.80q", key), err)
	}
	defer s.keys.lock(key)()
	if err := s.erase(key); err != nil {
		return failed("erase", key, err)
	}
	return nil
}

// erase does the work; the caller holds the key's lock.
func (s *Store) erase(key string) error {
	doomed := erasingPrefix + key
	if err := s.destroy(doomed); err != nil { // an earlier attempt came this far
		return err
	}
	err := s.capsules.rename(key, s.capsules, doomed)
	if errors.Is(err, fs.ErrNotExist) {
		return s.capsules.sync() // perhaps removed a moment before a crash
	}
	if err != nil {
		return err
	}
	return errors.Join(s.destroy(doomed), s.capsules.sync())
}

// destroy empties and removes one entry of capsules; absent is nil.
func (s *Store) destroy(name string) error {
	dir, err := s.capsules.at(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil { // not a directory, perhaps a link: nothing to empty
		return s.capsules.removeAll(name)
	}
	err = dir.f.Chmod(0o700)
	names, listErr := dir.names()
	errs := []error{err, listErr}
	for _, n := range names {
		errs = append(errs, dir.empty(n))
	}
	dir.close()
	return errors.Join(append(errs, s.capsules.removeAll(name))...)
}

// empty takes the bytes from a regular file that has no second name: one with another name is shared with
// somebody, and emptying it would destroy what is theirs.
func (d *directory) empty(name string) error {
	st, err := d.stat(name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return err
	}
	f, err := d.openat(name, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(0), f.Close())
}
