package imagestore

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// extFS is one file system of ext2, ext3 or ext4, in a file of its own that nobody may write.
type extFS struct {
	clean Clean
	file  *os.File
	at    partition // where it is on the disk
}

// The features that matter here, as the kernel's fs/ext4/ext4.h has them.
const (
	extSuper       = 1024
	extCompat      = 92
	extIncompat    = 96
	extHasJournal  = 1 << 2
	extJournalDev  = 1 << 3
	extEncrypted   = 1 << 16
	extFirstInode  = 11 // the first that is not the file system's own
	extRoot        = 2
	extListLimit   = 128 << 20
	extFixed       = 1 | 2 // exit codes of e2fsck: errors corrected, and a reboot advised
	remedyRepairFS = "start it once, shut it down cleanly, and share it then"
)

// scrub removes and empties what the patterns mean, and then all that is left of it. In this order: a journal that is
// replayed later would bring back what was removed; free blocks are given back only where e2fsck finds nothing to
// correct; and what is left at the end is looked at, not believed.
func (f *extFS) scrub(ctx context.Context) error {
	super := make([]byte, 1024)
	if _, err := f.file.ReadAt(super, extSuper); err != nil {
		return err
	}
	incompatible := binary.LittleEndian.Uint32(super[extIncompat:])
	journal := binary.LittleEndian.Uint32(super[extCompat:])&extHasJournal != 0
	switch {
	case incompatible&extEncrypted != 0:
		return cannotClean("%s holds an ext4 file system with encrypted directories, whose names cannot be read", f.at)
	case incompatible&extJournalDev != 0:
		return cannotClean("%s holds the journal of another file system", f.at)
	}
	if err := f.check(ctx, "-fy"); err != nil {
		return err
	}
	found, err := f.look(ctx)
	if err != nil {
		return err
	}
	if err := f.change(ctx, found); err != nil {
		return err
	}
	steps := [][]string{{"e2fsck", "-fy"}, {"tune2fs", "-O", "^has_journal"}, {"e2fsck", "-fy", "-E", "discard"}, {"tune2fs", "-O", "has_journal"}, {"e2fsck", "-fy"}}
	for _, argv := range steps {
		if argv[0] == "e2fsck" {
			err = f.check(ctx, argv[1:]...)
		} else if journal {
			_, err = f.task(argv[0], argv[1:]...).run(ctx)
			err = f.judge(err)
		}
		if err != nil {
			return err
		}
	}
	left, err := f.look(ctx)
	if err == nil && (len(left.remove) > 0 || len(left.empty) > 0) {
		err = cannotClean("%s keeps files that should be gone", f.at)
	}
	return err
}

// task is a program of e2fsprogs on the file system.
func (f *extFS) task(program string, args ...string) task {
	return task{
		program: program, files: []*os.File{f.file}, bytes: f.at.length, grow: f.at.length,
		args: append(args, sandboxedName(0)),
	}
}

// check has e2fsck make the file system whole.
func (f *extFS) check(ctx context.Context, args ...string) error {
	_, err := f.task("e2fsck", args...).run(ctx)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 && exit.ExitCode()&^extFixed == 0 {
		return nil
	}
	return f.judge(err)
}

// judge turns the failure of a program that ran into a refusal.
func (f *extFS) judge(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w: %w: %w", ErrUnsupported, refuse(remedyRepairFS, "the file system of %s is damaged", f.at), err)
	}
	return err
}

// findings are inodes that the patterns mean.
type findings struct {
	remove, empty []uint32
}

// extDirectory is a directory to be listed.
type extDirectory struct {
	inode  uint32
	at     []string
	doomed bool // all that is in it goes
}

// look goes through the whole tree, one level of directories at a time. Only the tree's own entries are gone by: no
// link leads anywhere.
func (f *extFS) look(ctx context.Context) (findings, error) {
	seen, removed, emptied := map[uint32]bool{extRoot: true}, map[uint32]bool{}, map[uint32]bool{}
	for level := []extDirectory{{inode: extRoot}}; len(level) > 0; {
		listed, err := f.list(ctx, level)
		if err != nil {
			return findings{}, err
		}
		var next []extDirectory
		for _, dir := range level {
			for _, e := range listed[dir.inode] {
				if e.inode < extFirstInode || e.name == "." || e.name == ".." {
					continue
				}
				at := append(slices.Clip(dir.at), e.name)
				doomed := dir.doomed || matches(f.clean.Remove, at)
				if doomed {
					removed[e.inode] = true
				} else if e.isRegular() && e.size != 0 && matches(f.clean.Empty, at) {
					emptied[e.inode] = true
				}
				if e.isDirectory() && !seen[e.inode] {
					seen[e.inode] = true
					next = append(next, extDirectory{inode: e.inode, at: at, doomed: doomed})
				}
			}
		}
		level = next
	}
	for inode := range removed {
		delete(emptied, inode) // by another name it goes
	}
	return findings{slices.Sorted(maps.Keys(removed)), slices.Sorted(maps.Keys(emptied))}, nil
}

// extEntry is one entry of a directory.
type extEntry struct {
	inode, mode uint32
	size        int64
	name        string
}

func (e extEntry) isRegular() bool   { return e.mode&unix.S_IFMT == unix.S_IFREG }
func (e extEntry) isDirectory() bool { return e.mode&unix.S_IFMT == unix.S_IFDIR }

// list has debugfs list directories, by their inodes: a name of the guest's is never part of a command.
func (f *extFS) list(ctx context.Context, dirs []extDirectory) (map[uint32][]extEntry, error) {
	var script strings.Builder
	for _, d := range dirs {
		fmt.Fprintf(&script, "ls -p <%d>\n", d.inode)
	}
	t := f.task("debugfs", "-f", "-")
	t.input, t.output = script.String(), extListLimit
	out, err := t.run(ctx)
	if err = f.judge(err); err != nil {
		return nil, err
	}
	listed, err := parseList(out)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs { // debugfs ends well whatever its commands do
		if !slices.ContainsFunc(listed[d.inode], func(e extEntry) bool { return e.name == "." && e.inode == d.inode }) {
			return nil, fmt.Errorf("%w: %w", ErrUnsupported, refuse(remedyRepairFS, "a directory of %s cannot be read", f.at))
		}
	}
	return listed, nil
}

// change frees and wipes the inodes that go, and takes the blocks from those that stay. The names of what went are
// left to e2fsck, which finds them all, also those in other directories.
func (f *extFS) change(ctx context.Context, found findings) error {
	var script strings.Builder
	for _, inode := range found.remove {
		fmt.Fprintf(&script, "kill_file <%d>\nclri <%d>\n", inode, inode)
	}
	for _, inode := range found.empty {
		fmt.Fprintf(&script, "punch <%d> 0\nset_inode_field <%d> size 0\n", inode, inode)
	}
	if script.Len() == 0 {
		return nil
	}
	t := f.task("debugfs", "-w", "-f", "-")
	t.input = script.String()
	_, err := t.run(ctx)
	return f.judge(err)
}

// parseList reads what debugfs says to "ls -p <INODE>": the command again after its prompt, then a line
// /INODE/MODE/UID/GID/NAME/SIZE/ for each entry. A name can hold anything but a slash, also a line's end: what is cut
// by one is taken for nothing, and so a disk's owner can hide a file of his from the patterns.
func parseList(out []byte) (map[uint32][]extEntry, error) {
	listed := map[uint32][]extEntry{}
	var dir uint32
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		line := lines.Text()
		if command, ok := strings.CutPrefix(line, "debugfs:"); ok {
			digits := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(command), "ls -p <"), ">")
			n, err := strconv.ParseUint(digits, 10, 32)
			if err == nil {
				dir = uint32(n)
			}
			continue
		}
		parts := strings.Split(line, "/")
		if len(parts) != 8 || dir == 0 {
			continue
		}
		inode, err1 := strconv.ParseUint(parts[1], 10, 32)
		mode, err2 := strconv.ParseUint(parts[2], 8, 32)
		size, err3 := strconv.ParseInt(cmp.Or(parts[6], "0"), 10, 64)
		if errors.Join(err1, err2, err3) != nil {
			continue
		}
		listed[dir] = append(listed[dir], extEntry{inode: uint32(inode), mode: uint32(mode), size: size, name: parts[5]})
	}
	return listed, lines.Err()
}
