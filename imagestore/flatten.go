package imagestore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Flatten makes an image of the disk of key as it is, with all that it takes from its backing file. A raw disk where
// the file system can share blocks becomes a raw image that shares them; any other becomes a qcow2 image with the holes
// left out. If c names anything, a private copy is cleaned first. The disk itself is only read, and only while it is
// copied: once the step "copy" is over, key may be written, or erased. Its volumes stay out, and so does what an
// overlay took since a clean point.
//
// ErrInUse if somebody has a disk of key open, or it has a clean point: stop it first. ErrUnsupported if it holds what
// cannot be cleaned here. ErrNotFound if there is no disk, ErrInvalid for bad arguments, or with a [*BadImage] for a
// disk that is no acceptable image, ErrExhausted if the disk has no room. Conversions take turns. Ending ctx ends the
// work. Whatever the failure, nothing stays behind.
func (s *Store) Flatten(ctx context.Context, key string, c Clean, p Progress) (Image, error) {
	began := time.Now()
	img, err := s.flatten(ctx, key, c, p)
	if err != nil {
		return Image{}, failed("flatten", fmt.Sprintf("%.80q", key), err)
	}
	s.imported(ctx, "disk flattened to an image", img, began)
	return img, nil
}

func (s *Store) flatten(ctx context.Context, key string, c Clean, p Progress) (_ Image, err error) {
	if err := errors.Join(ctx.Err(), checkKey(key), c.Check()); err != nil {
		return Image{}, err
	}
	if p == nil {
		p = func(string, int64, int64) {}
	}
	f := &flattening{store: s, progress: p}
	defer f.end()
	if err := f.copyDisk(ctx, key); err != nil {
		return Image{}, err
	}
	raw := f.format == Raw && f.shared // what is to be made
	if c.wanted() {
		if f.format != Raw {
			if err := f.convert(ctx, Raw); err != nil {
				return Image{}, err
			}
		}
		if err := f.scrub(ctx, c); err != nil {
			return Image{}, err
		}
	}
	if !raw {
		if err := f.convert(ctx, Qcow2); err != nil {
			return Image{}, err
		}
	}
	if err := errors.Join(f.disk.Chown(0, 0), f.disk.Chmod(0o444)); err != nil {
		return Image{}, err
	}
	digest, err := s.digest(ctx, f.disk, p)
	if err != nil {
		return Image{}, err
	}
	return s.commit(ctx, f.name, digest.sum(), p, s.incoming.rename)
}

// flattening is a disk on its way to an image: a private file in incoming, and the backing file that it needs.
type flattening struct {
	store    *Store
	progress Progress

	name   string // of disk in incoming
	disk   *os.File
	format Format
	shared bool // whether it shares blocks with the disk that it was copied from
	bytes  int64

	base       *os.File // nil if the disk never had one
	whole      bool     // whether the disk needs its base no more
	baseFormat Format
}

// end drops whatever is left.
func (f *flattening) end() {
	if f.base != nil {
		f.base.Close()
	}
	f.replace("", nil)
}

// replace takes another file for the disk and drops the one before.
func (f *flattening) replace(name string, disk *os.File) {
	if f.disk != nil {
		f.disk.Close()
		f.store.dropIncoming(f.name)
	}
	f.name, f.disk = name, disk
}

// copyDisk takes a private copy of the disk of key: of an overlay only what it has itself. The copy cannot be written
// by those who could write the disk, and can be read by nobody.
func (f *flattening) copyDisk(ctx context.Context, key string) (err error) {
	s := f.store
	defer s.keys.lock(key)()
	dir, disk, err := s.openDisk(key)
	if err != nil {
		return err
	}
	defer dir.close()
	if err := s.idle(ctx, key, dir); err != nil {
		return err
	}
	if f.bytes, err = dir.virtualBytes(disk); err != nil {
		return err
	}
	from, err := dir.open(filepath.Base(disk.Path))
	if err != nil {
		return err
	}
	defer from.Close()
	if f.format = disk.Format; disk.Base != "" {
		f.baseFormat = disk.BaseFormat
		if f.base, err = dir.open(filepath.Base(disk.Base)); err != nil {
			return err
		}
	}
	name, to, err := s.newIncoming()
	if err != nil {
		return err
	}
	f.replace(name, to)
	if f.shared, err = s.copyFile(ctx, from, to, f.progress); err != nil {
		return err
	}
	if f.format == Raw { // QEMU rounds up what is not whole sectors
		err = to.Truncate(f.bytes)
	}
	return errors.Join(err, to.Chmod(0o444))
}

// idle wants that nobody has a disk open and that there is no clean point, whose RAM the disk belongs to.
func (s *Store) idle(ctx context.Context, key string, dir *directory) error {
	holders, err := s.openBy(ctx, key, nil)
	if err != nil {
		return err
	}
	for _, h := range holders {
		return fmt.Errorf("%w: process %d has %s open", ErrInUse, h.PID, h.Disk)
	}
	for _, file := range []string{overlayFile, ramFile} {
		if have, err := dir.hasRegular(file); err != nil {
			return err
		} else if have {
			return fmt.Errorf("%w: it has a clean point: %s is there", ErrInUse, file)
		}
	}
	return nil
}

// copyFile shares the blocks of a file, or copies them with the holes, and fails if the file changes meanwhile.
func (s *Store) copyFile(ctx context.Context, from, to *os.File, p Progress) (shared bool, err error) {
	before, st, err := identify(from)
	if err != nil {
		return false, err
	}
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	if shared = err == nil; shared {
		p("copy", before.size, before.size)
	} else if cannotReflink(err) {
		c := &intake{store: s, name: "copy", from: from, to: to, size: before.size, progress: p, digest: io.Discard}
		if err = s.room(ctx, min(st.Blocks*512, before.size)); err == nil {
			err = c.run(ctx, from, true)
		}
	}
	if err != nil {
		return false, err
	}
	if after, _, err := identify(from); err != nil || after != before {
		return false, errors.Join(err, fmt.Errorf("%w: the disk changed while it was copied", ErrInUse))
	}
	return shared, nil
}

// scrub cleans the disk, which is raw, in place.
func (f *flattening) scrub(ctx context.Context, c Clean) error {
	clean := &cleaner{store: f.store, disk: f.disk, size: f.bytes, clean: c, progress: func(done, total int64) { f.progress("clean", done, total) }}
	return clean.run(ctx)
}

// convert replaces the disk by a whole one of another format.
func (f *flattening) convert(ctx context.Context, format Format) (err error) {
	s := f.store
	end, err := s.converting.take(ctx)
	if err != nil {
		return err
	}
	defer end()
	if base := f.base; base != nil && !f.whole {
		// The converter runs as nobody. The file is in directories that root and QEMU alone can enter, who may read it
		// anyway; one conversion at a time keeps one from taking the mode from another.
		if err := base.Chmod(0o444); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, base.Chmod(0o440)) }()
	}
	name, to, err := s.newIncoming()
	if err != nil {
		return err
	}
	t, err := f.conversion(to, format)
	if err == nil {
		err = errors.Join(to.Chown(sandboxID, sandboxID), to.Truncate(map[Format]int64{Raw: f.bytes}[format]))
	}
	if err == nil {
		err = f.watch(ctx, to, t)
	}
	if err = errors.Join(err, to.Chown(0, 0), to.Chmod(0o444)); err != nil {
		to.Close()
		s.dropIncoming(name)
		return err
	}
	f.replace(name, to)
	f.format, f.whole = format, true
	return nil
}

// conversion is the program that writes the disk to another file. Formats are said, never guessed: a guest can write
// any header into a raw disk of its own. The backing file is the one that was opened, whatever the overlay calls it.
func (f *flattening) conversion(to *os.File, format Format) (task, error) {
	type node map[string]any
	open := func(format Format, number int) node {
		// The files are ours alone, or never change; a lock would only meet those of the guests on the same base.
		return node{"driver": string(format), "file": node{"driver": "file", "filename": sandboxedName(number), "locking": "off"}}
	}
	files, source := []*os.File{to, f.disk}, open(f.format, 1)
	if f.base != nil && !f.whole {
		files = append(files, f.base)
		source["backing"] = open(f.baseFormat, 2)
	} else if f.format == Qcow2 {
		source["backing"] = nil
	}
	text, err := json.Marshal(source)
	if err != nil {
		return task{}, err
	}
	t := task{program: "qemu-img", files: files, bytes: f.bytes, args: []string{"convert", "-O", string(format)}}
	if format == Raw { // the file is there, and long enough, so holes are left alone
		t.args, t.grow = append(t.args, "-n", "--target-is-zero"), f.bytes
	} else {
		t.grow = f.bytes + f.bytes/512 + 16<<20 // tables of 64-KiB clusters take 1/6500 of the data
	}
	t.args = append(t.args, "json:"+string(text), sandboxedName(0))
	return t, nil
}

// watch runs a conversion, says how far it is, and ends it when it reaches into the reserve.
func (f *flattening) watch(ctx context.Context, to *os.File, t task) error {
	limited, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	total := int64(0)
	for _, from := range t.files[1:] {
		if _, st, err := identify(from); err == nil {
			total += st.Blocks * 512
		}
	}
	if err := f.store.room(ctx, min(total, t.grow)); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := t.run(limited)
		done <- err
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(limited); cause != nil {
				return cause
			}
			if exit, ok := errors.AsType[*exec.ExitError](err); ok && bytes.Contains(exit.Stderr, []byte("No space left on device")) {
				return fmt.Errorf("%w: %w", ErrExhausted, err)
			}
			return damaged(err)
		case <-tick.C:
			if err := f.store.room(ctx, 0); err != nil {
				stop(err)
				continue
			}
			if _, st, err := identify(to); err == nil {
				f.progress("convert", min(st.Blocks*512, total), total)
			}
		}
	}
}
