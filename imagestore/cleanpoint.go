package imagestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The files of a clean point. Their stems are no names for volumes.
const (
	overlayName = "overlay"
	ramName     = "clean"
	overlayFile = overlayName + "." + string(Qcow2)
	ramFile     = ramName + ".ram"
)

// CleanPoint is where a domain can be brought back to: its disk, which stays as it was because all writes go to an
// overlay, and its RAM in a file.
type CleanPoint struct {
	Disk    File   // the disk below the overlay
	Overlay string // path of the overlay, a qcow2 file whose backing file is Disk; see HaveOverlay
	RAM     string // path for the saved RAM; see HaveRAM
	Stamp   string // of Disk at this moment, see [Store.Stamp]

	HaveOverlay, HaveRAM bool // whether there is such a file
}

// PrepareCleanPoint makes a new, empty overlay over the disk of key, of the same virtual size, and returns it with a
// path at which ramBytes of RAM can be saved; that file is not made. An older overlay or RAM file is dropped first:
// call it only while nothing runs on them. The overlay is durable, root's alone until libvirt hands it to QEMU, and
// names its backing file relative to its directory.
//
// The stamp that it returns is worth little while the disk is still written: ask [Store.Stamp] again once the
// overlay takes the writes.
//
// ErrNotFound if there is no disk, ErrExhausted if ramBytes would not leave the reserve free, or the disk is full,
// ErrInvalid for bad arguments. After an error neither file is there.
func (s *Store) PrepareCleanPoint(ctx context.Context, key string, ramBytes int64) (CleanPoint, error) {
	err := errors.Join(ctx.Err(), checkKey(key))
	if ramBytes < 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d bytes of RAM: want a size", ErrInvalid, ramBytes))
	}
	if err != nil {
		return CleanPoint{}, failed("prepare clean point of", fmt.Sprintf("%.80q", key), err)
	}
	defer s.keys.lock(key)()
	c, err := s.prepareCleanPoint(ctx, key, ramBytes)
	if err != nil {
		return CleanPoint{}, failed("prepare clean point of", key, err)
	}
	return c, nil
}

func (s *Store) prepareCleanPoint(ctx context.Context, key string, ramBytes int64) (CleanPoint, error) {
	dir, disk, err := s.openDisk(key)
	if err != nil {
		return CleanPoint{}, err
	}
	defer dir.close()
	size, err := dir.virtualBytes(disk)
	if err != nil {
		return CleanPoint{}, err
	}
	err = errors.Join(dir.discard(overlayFile), dir.discard(ramFile), dir.sync())
	if err == nil {
		err = s.room(ctx, ramBytes)
	}
	if err == nil {
		err = dir.makeOverlay(disk, size)
	}
	if err != nil {
		return CleanPoint{}, err
	}
	return dir.cleanPoint(disk)
}

// makeOverlay makes the overlay durable under another name, and then gives it its own.
func (d *directory) makeOverlay(disk File, virtualBytes int64) (err error) {
	const partial = partialPrefix + overlayFile
	f, err := d.create(partial)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, d.remove(partial), d.remove(overlayFile))
		}
	}()
	if err := writeOverlay(f, virtualBytes, filepath.Base(disk.Path), disk.Format); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := d.rename(partial, d, overlayFile); err != nil {
		return err
	}
	return d.sync()
}

// CleanPoint says what there is now. ErrNotFound if there is no disk, ErrInvalid if key is no UUID.
func (s *Store) CleanPoint(ctx context.Context, key string) (CleanPoint, error) {
	c, err := s.look(ctx, key)
	if err != nil {
		return CleanPoint{}, failed("look at clean point of", fmt.Sprintf("%.80q", key), err)
	}
	return c, nil
}

// Stamp identifies the disk of key and its contents: text that changes when somebody writes to the disk, or to the
// backing file of the disk, or puts another file in its place. Owner, mode, attributes and further names may change,
// and it may be read. Nothing of the contents is read: the stamp is made of inode, size and time of modification. Two
// writes within one tick of the kernel's clock, some milliseconds, can have one time before Linux 6.13. The blocks
// that a file takes are no part of it: libvirt keeps a file's former owner in an attribute that takes one, and XFS
// gives back preallocated ones on close.
//
// ErrNotFound if there is no disk, ErrInvalid if key is no UUID.
func (s *Store) Stamp(ctx context.Context, key string) (string, error) {
	c, err := s.look(ctx, key)
	if err != nil {
		return "", failed("stamp disk of", fmt.Sprintf("%.80q", key), err)
	}
	return c.Stamp, nil
}

func (s *Store) look(ctx context.Context, key string) (CleanPoint, error) {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return CleanPoint{}, err
	}
	defer s.keys.lock(key)()
	dir, disk, err := s.openDisk(key)
	if err != nil {
		return CleanPoint{}, err
	}
	defer dir.close()
	return dir.cleanPoint(disk)
}

// openDisk opens the clone directory of key and finds the disk in it.
func (s *Store) openDisk(key string) (*directory, File, error) {
	disk, err := s.existing(key, diskName)
	if err != nil {
		return nil, File{}, err
	}
	dir, err := s.capsules.at(key)
	return dir, disk, err
}

func (d *directory) cleanPoint(disk File) (c CleanPoint, err error) {
	c = CleanPoint{Disk: disk, Overlay: d.path(overlayFile), RAM: d.path(ramFile)}
	if c.HaveOverlay, err = d.hasRegular(overlayFile); err != nil {
		return CleanPoint{}, err
	}
	if c.HaveRAM, err = d.hasRegular(ramFile); err != nil {
		return CleanPoint{}, err
	}
	if c.Stamp, err = d.stamp(disk); err != nil {
		return CleanPoint{}, err
	}
	return c, nil
}

// hasRegular says whether there is such a file; anything else under its name is an error.
func (d *directory) hasRegular(name string) (bool, error) {
	st, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = d.wrap("look at", name, errors.New("not a regular file"))
	}
	return err == nil, err
}

func (d *directory) stamp(disk File) (string, error) {
	var parts []string
	for _, path := range []string{disk.Path, disk.Base} {
		if path == "" {
			continue
		}
		name := filepath.Base(path)
		st, err := d.stat(name)
		if err != nil {
			return "", err
		}
		parts = append(parts, fmt.Sprintf("%s inode=%d size=%d mtime=%d.%09d", name, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec))
	}
	return strings.Join(parts, "; "), nil
}

// virtualBytes is the size of the disk that a guest sees. QEMU counts the sectors of a raw disk and rounds up. In a
// qcow2 file QEMU alone writes the header, so it is read without the suspicion that an image meets.
func (d *directory) virtualBytes(disk File) (int64, error) {

	name := filepath.Base(disk.Path)
	f, err := d.open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := (info.Size() + sector - 1) / sector * sector
	if disk.Format == Qcow2 {
		head := make([]byte, qcow2V2Length)
		if _, err := f.ReadAt(head, 0); err != nil || string(head[:len(qcow2Magic)]) != qcow2Magic {
			return 0, errors.Join(err, d.wrap("read header of", name, errors.New("not a qcow2 file")))
		}
		const sizeOffset = 24
		size = int64(binary.BigEndian.Uint64(head[sizeOffset:]))
	}
	if size <= 0 || size > maxVirtual || size%sector != 0 {
		return 0, d.wrap("read size of", name, fmt.Errorf("%d bytes: want a multiple of 512 up to 2 TiB", size))
	}
	return size, nil
}
