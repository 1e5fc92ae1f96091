package imagestore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Options say where the store is and how it shares the machine.
type Options struct {
	// Dir is the state directory, absolute; it is made if it is absent. Everything lies below it.
	Dir string
	// ReaderGID is the group that QEMU runs as: it may read images and templates through their pins, and
	// search clone directories. -1 leaves them to root's.
	ReaderGID int
	// ReserveBytes of the file system stay free: work that would leave less is refused with ErrExhausted.
	ReserveBytes int64
	// MaxImageBytes bounds what comes as a stream: an upload, a download; 0 for 1 TiB.
	MaxImageBytes int64
	// Log is required.
	Log *slog.Logger
	// Registerer takes the store's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Store keeps images and what is cloned from them. Its methods may be called at the same time.
type Store struct {
	opt     Options
	metrics *metrics
	reflink bool // whether a file of images may be reflinkable into capsules; false once it is known not to be

	root, images, incoming, templates, capsules *directory

	keys keyLocks // one job at a time in a clone's directory

	prepare sync.Mutex // one Prepare at a time: both would format the same template

	converting turn // see flatten.go
	verifying  turn
	boot       string // tells this boot of the machine from others

	forsaken leaving // files without a name whose blocks are being given back

	mu      sync.Mutex             // guards live and uploads
	live    map[string]bool        // names in incoming that this process works on
	uploads map[UploadID]*digested // what of each upload was digested as it came
}

const (
	partialPrefix = ".new-"     // a file or template that is not finished
	erasingPrefix = ".erasing-" // a clone's directory on its way out

	defaultMaxImage = 1 << 40
)

// Open opens the store, makes its directories with the right modes, finds out whether the file system can
// share blocks between files, and holds the store against a second process until Close (ErrInUse).
// ErrInvalid for an option that makes no sense. It removes nothing: see [Store.Sweep].
func Open(opt Options) (_ *Store, err error) {
	if !filepath.IsAbs(opt.Dir) || opt.Log == nil || opt.ReserveBytes < 0 || opt.MaxImageBytes < 0 || opt.ReaderGID < -1 {
		return nil, failed("open", opt.Dir, fmt.Errorf("%w: want an absolute directory, a logger, and no negative number but -1 for the group", ErrInvalid))
	}
	opt.Dir = filepath.Clean(opt.Dir)
	opt.MaxImageBytes = cmp.Or(opt.MaxImageBytes, defaultMaxImage)
	s := &Store{opt: opt, live: map[string]bool{}, uploads: map[UploadID]*digested{}, converting: newTurn(), verifying: newTurn()}
	defer func() {
		if err != nil {
			s.Close()
			err = failed("open", opt.Dir, err)
		}
	}()
	if s.boot, err = thisBoot(); err != nil {
		return nil, err
	}
	if err = s.openDirectories(); err != nil {
		return nil, err
	}
	if err = unix.Flock(s.images.fd(), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: another process holds the store: %w", ErrInUse, err)
	}
	if err = s.probe(); err != nil {
		return nil, err
	}
	// Last, so that an Open that was refused leaves nothing in the registry and can be tried again.
	if s.metrics, err = newMetrics(opt.Registerer); err != nil {
		return nil, err
	}
	s.measure()
	return s, nil
}

// Close releases the store. Work under way must have ended; what goes on after its call returned is waited for.
func (s *Store) Close() error {
	errs := []error{s.forsaken.wait(context.Background())}
	for _, d := range []*directory{s.root, s.images, s.incoming, s.templates, s.capsules} {
		if d != nil {
			errs = append(errs, d.close())
		}
	}
	return errors.Join(errs...)
}

// openDirectories makes and opens the rooms. QEMU passes through the top and capsules to the directory of its
// own clone, where everything that it needs is pinned; images and templates are root's alone.
func (s *Store) openDirectories() (err error) {
	if err = os.MkdirAll(s.opt.Dir, 0o711); err != nil {
		return err
	}
	if s.root, err = openDirectory(s.opt.Dir); err != nil {
		return err
	}
	if err = s.root.f.Chmod(0o711); err != nil {
		return err
	}
	for _, r := range []struct {
		into   **directory
		parent **directory
		name   string
		mode   os.FileMode
	}{
		{&s.images, &s.root, "images", 0o700},
		{&s.incoming, &s.images, "incoming", 0o700},
		{&s.templates, &s.root, "templates", 0o700},
		{&s.capsules, &s.root, "capsules", 0o711},
	} {
		if *r.into, _, err = (*r.parent).make(r.name, r.mode, -1); err != nil {
			return err
		}
	}
	return nil
}

// probe finds out once how clones will be made, and that they can be made at all. A full disk keeps no store shut:
// only an open one can delete. Then the question stays open, and each clone asks the file system by trying.
func (s *Store) probe() error {
	// Without reflinks a clone pins its base with a hard link, which cannot leave the file system.
	var a, b, c unix.Stat_t
	err := errors.Join(unix.Fstat(s.images.fd(), &a), unix.Fstat(s.capsules.fd(), &b), unix.Fstat(s.templates.fd(), &c))
	if err != nil {
		return err
	}
	err = s.tryReflink()
	switch {
	case cannotReflink(err):
		s.reflink = false
		if a.Dev != b.Dev || a.Dev != c.Dev {
			return fmt.Errorf("%w: images, templates and capsules must be on one file system", ErrInvalid)
		}
		return nil
	case full(err):
		s.opt.Log.Error("no disk space left: nothing can be added until there is room", slog.String("dir", s.opt.Dir), slog.Any("error", err))
	case err != nil:
		return err
	}
	s.reflink = true
	return nil
}

// tryReflink clones one block from images to capsules.
func (s *Store) tryReflink() (err error) {
	const block = 1 << 16
	from, err := s.incoming.create(partialPrefix + rand.Text())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close(), s.incoming.remove(filepath.Base(from.Name()))) }()
	if _, err = from.Write(make([]byte, block)); err != nil {
		return err
	}
	to, err := s.capsules.create(partialPrefix + rand.Text())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close(), s.capsules.remove(filepath.Base(to.Name()))) }()
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
}

// cannotReflink tells "this file system does not" from "something went wrong".
func cannotReflink(err error) bool {
	for _, no := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// FreeBytes is what the store's file system still has for it, the reserve not taken off. Where that is less than want and
// blocks of files that were destroyed are still being given back, it waits for those, or until ctx ends, which is an error.
func (s *Store) FreeBytes(ctx context.Context, want int64) (int64, error) {
	free, err := s.freeBytes()
	if err == nil && free < want {
		if err = s.forsaken.wait(ctx); err == nil {
			free, err = s.freeBytes()
		}
	}
	if err != nil {
		return 0, failed("measure", s.opt.Dir, err)
	}
	return free, nil
}

func (s *Store) freeBytes() (int64, error) {
	var st unix.Statfs_t
	err := unix.Fstatfs(s.root.fd(), &st)
	return int64(st.Bavail) * st.Bsize, err
}

// room refuses work that would leave less free than the reserve. It waits for room that is about to be there.
func (s *Store) room(ctx context.Context, need int64) error {
	free, err := s.FreeBytes(ctx, need+s.opt.ReserveBytes)
	if err != nil {
		return err
	}
	if free-need < s.opt.ReserveBytes {
		return fmt.Errorf("%w: %d bytes free, %d needed, %d kept in reserve", ErrExhausted, free, need, s.opt.ReserveBytes)
	}
	return nil
}

// measure sets the size of the image cache. It is counted anew each time, so that it cannot drift.
func (s *Store) measure() {
	names, err := s.images.names()
	if err != nil {
		s.opt.Log.Warn("image cache not measured", slog.Any("error", err))
		return
	}
	var total int64
	for _, name := range names {
		if _, ok := parseImageName(name); !ok {
			continue
		}
		if st, err := s.images.stat(name); err == nil {
			total += st.Blocks * 512
		}
	}
	s.metrics.cacheBytes.Set(float64(total))
}

// own gives a finished file its final owner and mode. Root writes it no more, QEMU's group may read it.
func (s *Store) own(f *os.File) error {
	return errors.Join(f.Chown(0, max(s.opt.ReaderGID, 0)), f.Chmod(0o440))
}

// contains says whether a path, free of symbolic links, lies in one of the store's rooms.
func (s *Store) contains(path string) bool {
	for _, d := range []*directory{s.images, s.templates, s.capsules} {
		if room, err := filepath.EvalSymlinks(d.f.Name()); err == nil && strings.HasPrefix(path, room+"/") {
			return true
		}
	}
	return false
}
