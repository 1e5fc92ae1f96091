package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	methodReflink = "reflink"
	methodOverlay = "overlay"

	diskName  = "disk"
	pinPrefix = "base-"
	serialLog = "serial.log"
)

// A clone's directory holds NAME.FORMAT for each disk, and base-NAME.FORMAT beside it if the disk is an overlay.
// Formats are in the names because a guest can write any header into a raw disk of its own.
var (
	keyPattern  = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,15}$`) // fits an ext4 label too
)

// checkKey passes canonical lower-case UUIDs only: a key becomes the name of a directory.
func checkKey(key string) error {
	if !keyPattern.MatchString(key) {
		return fmt.Errorf("%w: key is not a lower-case UUID", ErrInvalid)
	}
	return nil
}

// Clone gives the clone directory of key, which is made if it is absent, a writable disk with the contents of
// image d: a reflink where the file system can, else an overlay whose base is pinned beside it. The image can
// be removed afterwards. The time that it takes does not grow with the image, and the disk is durable when it
// returns. A finished disk is returned as it is, whatever d says: a key is for one image. A half-made one is
// replaced. ErrNotFound if there is no such image, ErrExhausted if the disk is full, ErrInvalid for bad
// arguments.
//
// A guest sees a disk of size bytes, rounded up to whole sectors, or of the image's size if that is more: what is beyond
// the image reads as zeros, and is a hole. To grow what is inside a qcow2 file would take its tables apart, so a bigger
// clone of one is an overlay on every file system.
func (s *Store) Clone(ctx context.Context, key string, d Digest, size int64) (File, error) {
	if size < 0 || size > maxVirtual {
		return File{}, failed("clone to", fmt.Sprintf("%.80q", key), fmt.Errorf("%w: a disk of %d bytes: want up to %d", ErrInvalid, size, int64(maxVirtual)))
	}
	open := func() (backing, error) {
		b, err := s.openImage(ctx, d)
		b.wanted = max(b.wanted, (size+sector-1)/sector*sector)
		return b, err
	}
	f, err := s.cloneAs(ctx, key, diskName, open)
	if err != nil {
		return File{}, failed("clone to", fmt.Sprintf("%.80q", key), err)
	}
	return f, nil
}

// cloneAs makes the disk of one name in the directory of key, unless it is there.
func (s *Store) cloneAs(ctx context.Context, key, name string, open func() (backing, error)) (_ File, err error) {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return File{}, err
	}
	began := time.Now()
	defer s.keys.lock(key)()
	if f, err := s.existing(key, name); err == nil || !errors.Is(err, ErrNotFound) {
		return f, err
	}
	b, err := open()
	if err != nil {
		return File{}, err
	}
	defer b.file.Close()
	if err := s.room(ctx, 0); err != nil {
		return File{}, err
	}
	dir, created, err := s.capsules.make(key, 0o710, s.opt.ReaderGID)
	if err != nil {
		return File{}, err
	}
	defer func() {
		dir.close()
		if err != nil && created {
			_ = s.capsules.removeEmpty(key) // what else is in it keeps it; the owner erases it
		}
	}()
	f, err := s.fill(dir, name, b, created)
	if err != nil {
		return File{}, err
	}
	s.metrics.cloneDuration.WithLabelValues(f.Method).Observe(time.Since(began).Seconds())
	return f, nil
}

// existing returns a finished disk, ErrNotFound if there is none.
func (s *Store) existing(key, name string) (File, error) {
	files, err := s.list(key)
	if err != nil {
		return File{}, err
	}
	f, ok := files[name]
	if !ok {
		return File{}, fmt.Errorf("%w: disk %s", ErrNotFound, name)
	}
	return f, nil
}

// fill makes one disk in a clone's directory: pin, bytes, name, in this order and each durable before the next
// counts. fresh says that the directory itself is new. Nothing of the disk stays after an error.
func (s *Store) fill(dir *directory, name string, b backing, fresh bool) (_ File, err error) {
	if err := dir.removePins(name); err != nil { // of an earlier attempt; it would make a reflink look like an overlay
		return File{}, err
	}
	partial := partialPrefix + name
	if err := dir.remove(partial); err != nil {
		return File{}, err
	}
	to, err := dir.create(partial)
	if err != nil {
		return File{}, err
	}
	final := partial
	defer func() {
		err = errors.Join(err, to.Close())
		if err != nil { // the disk before its pin: without the pin an overlay would look like a whole disk
			err = errors.Join(err, dir.remove(partial), dir.remove(final), dir.removePins(name))
		}
	}()
	f := File{Format: b.format, Method: methodReflink}
	whole := s.reflink && (b.format == Raw || b.wanted == b.virtualBytes)
	if whole {
		if err = unix.IoctlFileClone(int(to.Fd()), int(b.file.Fd())); err == nil && b.wanted > b.virtualBytes {
			err = to.Truncate(b.wanted)
		}
	}
	if !whole || cannotReflink(err) {
		f = File{Format: Qcow2, BaseFormat: b.format, Method: methodOverlay}
		pin := pinPrefix + name + "." + string(b.format)
		f.Base = dir.path(pin)
		err = errors.Join(b.pin(dir, pin), writeOverlay(to, b.wanted, pin, b.format))
	}
	if err != nil {
		return File{}, err
	}
	if err = to.Sync(); err != nil {
		return File{}, err
	}
	f.Path = dir.path(name + "." + string(f.Format))
	if err = dir.rename(partial, dir, filepath.Base(f.Path)); err != nil {
		return File{}, err
	}
	final = filepath.Base(f.Path)
	// The directory's own entry at the same time: the two waits for the disk become one.
	var parent error
	var wg sync.WaitGroup
	if fresh {
		wg.Go(func() { parent = s.capsules.sync() })
	}
	err = dir.sync()
	wg.Wait()
	return f, errors.Join(err, parent)
}

// pin links the backing file into a clone's directory, and makes sure that it is the file that was opened.
func (b backing) pin(dir *directory, as string) error {
	if err := b.dir.link(b.name, dir, as); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: removed meanwhile: %w", ErrNotFound, err)
		}
		return err
	}
	_, opened, err := identify(b.file)
	if err != nil {
		return err
	}
	if linked, err := dir.stat(as); err != nil || linked.Ino != opened.Ino || linked.Dev != opened.Dev {
		return errors.Join(err, dir.wrap("link", as, errors.New("the backing file was replaced meanwhile")))
	}
	return nil
}

// removePins drops the links to the backing file of one disk.
func (d *directory) removePins(name string) error {
	var err error
	for _, f := range formats {
		err = errors.Join(err, d.remove(pinPrefix+name+"."+string(f)))
	}
	return err
}

// Files lists the finished disks in the clone directory of key by name: "disk", and the names of its volumes.
// ErrNotFound if there is no directory, ErrInvalid if key is no UUID.
func (s *Store) Files(ctx context.Context, key string) (map[string]File, error) {
	err := errors.Join(ctx.Err(), checkKey(key))
	if err != nil {
		return nil, failed("list", fmt.Sprintf("%.80q", key), err)
	}
	files, err := s.list(key)
	if err != nil {
		return nil, failed("list", key, err)
	}
	return files, nil
}

func (s *Store) list(key string) (map[string]File, error) {
	dir, err := s.capsules.at(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: clone directory", ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer dir.close()
	names, err := dir.names()
	if err != nil {
		return nil, err
	}
	files, pins := map[string]File{}, map[string]Format{}
	for _, file := range names {
		name, format, ok := diskOf(strings.TrimPrefix(file, pinPrefix))
		switch {
		case !ok:
			continue
		case strings.HasPrefix(file, pinPrefix):
			pins[name] = format
			continue
		}
		st, err := dir.stat(file)
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil, dir.wrap("list", file, errors.New("not a regular file"))
		}
		files[name] = File{Path: dir.path(file), Format: format, Method: methodReflink}
	}
	for name, format := range pins {
		if f, ok := files[name]; ok {
			f.Base, f.BaseFormat, f.Method = dir.path(pinPrefix+name+"."+string(format)), format, methodOverlay
			files[name] = f
		}
	}
	return files, nil
}

// diskOf says by its name which disk a file of a clone's directory is, in which format. The overlay of secure mode is none.
func diskOf(file string) (name string, format Format, ok bool) {
	name, extension, _ := strings.Cut(file, ".")
	format = Format(extension)
	return name, format, (format == Raw || format == Qcow2) && file != overlayFile && namePattern.MatchString(name)
}

// SerialLog is where the console log of key goes, in its clone directory so that it is erased with it. It is a
// path only: nothing is made. It is "" if key is no UUID.
func (s *Store) SerialLog(key string) string {
	if checkKey(key) != nil {
		return ""
	}
	return filepath.Join(s.capsules.f.Name(), key, serialLog)
}
