package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Clean says what must not travel with a disk. Patterns go by components, each as [path.Match] has it. One that begins
// with a slash is counted from the top of each file system: "/etc/ssh/ssh_host_*". Others match at any depth, whatever
// a file system is mounted on: ".htrc", ".ssh/authorized_keys".
type Clean struct {
	// Remove are files and directories that go, with all that is below them and under whatever further names they have.
	// Of a symbolic link the link goes, not what it leads to.
	Remove []string
	// Empty are regular files that stay, with nothing in them: an absent /etc/machine-id means a first boot to systemd,
	// an empty one only that the machine needs a name.
	Empty []string
}

const maxPatterns = 1000

func (c Clean) wanted() bool { return len(c.Remove)+len(c.Empty) > 0 }

// Check says what is wrong with the patterns; nil if they can be gone by.
func (c Clean) Check() error {
	if len(c.Remove)+len(c.Empty) > maxPatterns {
		return fmt.Errorf("%w: more than %d patterns to clean by", ErrInvalid, maxPatterns)
	}
	for _, pattern := range slices.Concat(c.Remove, c.Empty) {
		_, err := path.Match(pattern, "")
		bad := err != nil || strings.Trim(pattern, "/*?") == "" || path.Clean(pattern) != pattern || strings.HasPrefix(pattern, "../")
		if bad {
			return fmt.Errorf("%w: pattern %.100q: want names, with * and ? but not these alone, joined by single slashes", ErrInvalid, pattern)
		}
	}
	return nil
}

// matches says whether a path, given by its components, is meant by one of the patterns.
func matches(patterns []string, at []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		whole, anchored := strings.CutPrefix(pattern, "/")
		n := strings.Count(whole, "/") + 1
		if n > len(at) || anchored && n != len(at) {
			return false
		}
		ok, _ := path.Match(whole, strings.Join(at[len(at)-n:], "/")) // checked before
		return ok
	})
}

// cannotClean is a disk that is refused because of what it holds.
func cannotClean(what string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnsupported, refuse("keep the system and its data on plain ext2, ext3 or ext4 partitions, or share the files themselves",
		what, args...))
}

// cleaner works on a private raw copy of a disk, which nobody may write. Nothing is mounted: the kernel reads none of
// its structures. What it removes is destroyed with what else is in free blocks, since these are given back to the
// file that holds the disk; and so are the journals, which remember blocks of long ago, and swap space.
//
// It is no defence against an owner who wants something to travel: a disk has more places to hide things.
type cleaner struct {
	store    *Store
	disk     *os.File
	size     int64
	clean    Clean
	progress func(done, total int64)
}

// run cleans all partitions, or says by an ErrUnsupported why it cannot.
func (c *cleaner) run(ctx context.Context) error {
	all, err := partitions(c.disk, c.size)
	if err != nil {
		return err
	}
	found := map[contents][]partition{}
	for _, p := range all {
		what, err := identifyContents(c.disk, p)
		if err != nil {
			return err
		}
		switch {
		case what == holdsExt || what == holdsSwap:
			found[what] = append(found[what], p)
		case what == holdsZeros || p.kind == kindBoot || p.kind == kindESP && what == holdsFAT: // a boot loader
		default:
			return cannotClean("%s holds %s", p, what)
		}
	}
	if len(found[holdsExt]) == 0 {
		return cannotClean("there is no ext file system on it")
	}
	for _, p := range found[holdsSwap] {
		if err := c.emptySwap(p); err != nil {
			return err
		}
	}
	for i, p := range found[holdsExt] {
		c.progress(int64(i), int64(len(found[holdsExt])))
		if err := c.scrubExt(ctx, p); err != nil {
			return err
		}
	}
	c.progress(1, 1)
	return nil
}

// emptySwap destroys what was paged out; the first page holds the label.
func (c *cleaner) emptySwap(p partition) error {
	const page = 4096
	return unix.Fallocate(int(c.disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.start+page, p.length-page)
}

// scrubExt cleans one file system in a file of its own. The programs of e2fsprogs can be told of a file system that
// begins within a file, but they forget it when they open it again after a journal was replayed (1.47). This way they
// can write nothing else of the disk either.
func (c *cleaner) scrubExt(ctx context.Context, p partition) error {
	name, own, err := c.store.newIncoming()
	if err != nil {
		return err
	}
	defer c.store.dropIncoming(name)
	defer own.Close()
	if err := errors.Join(own.Truncate(p.length), own.Chown(sandboxID, sandboxID)); err != nil {
		return err
	}
	if err := c.store.transplant(ctx, c.disk, p.start, own, 0, p.length); err != nil {
		return err
	}
	f := &extFS{clean: c.clean, file: own, at: p}
	if err := f.scrub(ctx); err != nil {
		return err
	}
	if err := unix.Fallocate(int(c.disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.start, p.length); err != nil {
		return err
	}
	return c.store.transplant(ctx, own, 0, c.disk, p.start, p.length)
}

// transplant copies a piece of a file to where another one has a hole: what is data in it, shared where the file system
// can.
func (s *Store) transplant(ctx context.Context, from *os.File, fromAt int64, to *os.File, toAt, length int64) error {
	const portion = 64 << 20
	shift := toAt - fromAt
	for at, end := fromAt, fromAt+length; at < end; {
		data, hole, err := extent(from, at, end)
		if err != nil {
			return err
		}
		for at = max(at, data); at < hole; {
			part := min(hole-at, portion)
			if err := errors.Join(ctx.Err(), s.room(ctx, part)); err != nil {
				return err
			}
			in, out := at, at+shift
			n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(part), 0)
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return err
			}
			at += int64(n)
		}
		at = hole
	}
	return nil
}
