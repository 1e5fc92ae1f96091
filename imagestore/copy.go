package imagestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const copyChunk = 1 << 20

// openSource opens what the caller named, and only if it is a regular file: O_PATH looks at it without the
// side effects that opening a device or a FIFO has.
//
// Links such as /proc/PID/root lead into another process's mounts. Whoever makes a mount namespace of his own can bind
// the store to any place in it, and [Store.contains] would know the file by a path that is not the store's.
func openSource(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, refuse("give the file's own path", "its path goes round in circles, or through another process's files in /proc")
	}
	if err != nil {
		err = &fs.PathError{Op: "open", Path: path, Err: err}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) {
			err = fmt.Errorf("%w: %w", refuse("give the path of a file of this host", "it cannot be opened"), err)
		}
		return nil, err
	}
	look := os.NewFile(uintptr(fd), path)
	defer look.Close()
	info, err := look.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, refuse("give the path of a disk image", "it is not a regular file")
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", look.Fd()))
}

// identity is what tells whether a file is still the one that it was, with the same contents.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(f *os.File) (identity, unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return identity{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, st, err
}

// intake copies a file in and digests it on the way.
type intake struct {
	store    *Store
	name     string // of the step, for progress
	from, to *os.File
	size     int64
	progress Progress
	told     int64     // bytes done when progress was last called
	digest   io.Writer // takes every byte, holes as zeros
}

// takeIn fills to with the bytes of from, shared where the file system can and else copied with its holes,
// and returns their digest. It fails if from changes meanwhile.
func (s *Store) takeIn(ctx context.Context, from, to *os.File, p Progress) (Digest, error) {
	before, st, err := identify(from)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	c := &intake{store: s, name: "copy", from: from, to: to, size: before.size, progress: p, digest: digest}
	if before.size > maxVirtual*2 {
		return "", refuse("give a smaller image", "it is %d bytes long", before.size)
	}
	switch err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); {
	case err == nil:
		// The bytes are ours from this instant. Take the length from our copy.
		var own unix.Stat_t
		if err = unix.Fstat(int(to.Fd()), &own); err == nil {
			c.size = own.Size
			err = c.run(ctx, to, false)
		}
	case cannotReflink(err):
		if err = s.room(ctx, min(st.Blocks*512, before.size)); err == nil {
			err = c.run(ctx, from, true)
		}
	}
	if err != nil {
		return "", err
	}
	if after, _, err := identify(from); err != nil || after != before {
		return "", errors.Join(err, refuse("stop what writes to it, and add it again", "it changed while it was read"))
	}
	return Digest(digestPrefix + hex.EncodeToString(digest.Sum(nil))), to.Sync()
}

// run goes through the file, from data to hole to data. Holes are digested as the zeros they stand for.
func (c *intake) run(ctx context.Context, r *os.File, write bool) error {
	buf, zeros := make([]byte, copyChunk), make([]byte, copyChunk)
	for at := int64(0); at < c.size; {
		data, hole, err := extent(r, at, c.size)
		if err != nil {
			return err
		}
		for ; at < data; at += int64(len(zeros)) {
			zeros = zeros[:min(int64(copyChunk), data-at)]
			c.digest.Write(zeros)
			if err := c.step(ctx, at+int64(len(zeros))); err != nil {
				return err
			}
		}
		zeros = zeros[:copyChunk]
		for at = data; at < hole; at += int64(len(buf)) {
			buf = buf[:min(int64(copyChunk), hole-at)]
			if err := c.chunk(ctx, r, buf, at, write); err != nil {
				return err
			}
		}
		buf, at = buf[:copyChunk], hole
	}
	if write {
		return c.to.Truncate(c.size) // the file may end in a hole
	}
	return nil
}

// chunk reads, digests and, if asked to, writes one piece of data.
func (c *intake) chunk(ctx context.Context, r *os.File, buf []byte, at int64, write bool) error {
	if _, err := r.ReadAt(buf, at); errors.Is(err, io.EOF) {
		return refuse("stop what writes to it, and add it again", "it became shorter while it was read")
	} else if err != nil {
		return err
	}
	c.digest.Write(buf)
	if write {
		// Others write to the file system too, so the reserve is looked after all the way.
		if err := c.store.room(ctx, int64(len(buf))); err != nil {
			return err
		}
		if _, err := c.to.WriteAt(buf, at); err != nil {
			return err
		}
	}
	return c.step(ctx, at+int64(len(buf)))
}

// step says how far it is, at most some hundred times in all, and notices that the caller gave up.
func (c *intake) step(ctx context.Context, done int64) error {
	if c.progress != nil && (done == c.size || done-c.told >= max(c.size/200, copyChunk)) {
		c.told = done
		c.progress(c.name, done, c.size)
	}
	return ctx.Err()
}

// extent finds the next piece of data at or after an offset: it begins at data and ends at hole. Where the
// file system does not know about holes, everything is data.
func extent(f io.Seeker, at, size int64) (data, hole int64, err error) {
	data, err = f.Seek(at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return at, size, nil
	case err != nil:
		return 0, 0, err
	}
	if hole, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
		return 0, 0, err
	}
	return min(data, size), min(hole, size), nil
}
