package imagestore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileID tells one file from every other while it is there.
type fileID struct {
	devMajor, devMinor uint32
	inode              uint64
}

// identifyAt does not wait for a file server: among the files of other processes there may be any.
func identifyAt(dir int, name string, flags int) (fileID, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	if err != nil {
		return fileID{}, &fs.PathError{Op: "statx", Path: name, Err: err}
	}
	return fileID{st.Dev_major, st.Dev_minor, st.Ino}, nil
}

// scan looks for the files it wants in the processes of this machine.
type scan struct {
	want   map[fileID]string // the disk of each file
	inodes map[string]bool   // the inodes of want, as /proc/PID/maps spells them
	found  map[Holder]bool   // whether the holder can write; in the key Write is false
}

// scanProcesses finds the processes that have one of the files open or mapped. One that ends meanwhile is left out.
// denied says why some could not be looked at, and is nil when all were.
func scanProcesses(ctx context.Context, want map[fileID]string) (found []Holder, denied, err error) {
	s := &scan{want: want, inodes: map[string]bool{}, found: map[Holder]bool{}}
	for id := range want {
		s.inodes[strconv.FormatUint(id.inode, 10)] = true
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if err := errors.Join(ended(s.descriptors(pid)), ended(s.mappings(pid))); err != nil {
			denied = fmt.Errorf("process %d: %w: want CAP_SYS_PTRACE and CAP_SYS_ADMIN", pid, err)
		}
	}
	for h, write := range s.found {
		h.Write = write
		found = append(found, h)
	}
	return found, denied, nil
}

// ended lets those errors pass that a process gives which is not there any more.
func ended(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// descriptors goes through the open files of a process. They are links that lead to the file itself, whatever it is
// called by now.
func (s *scan) descriptors(pid int) error {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, fd := range names {
		if err := s.link(pid, int(dir.Fd()), fd); err != nil {
			return err
		}
	}
	return nil
}

// link follows a link of the kernel's to an open file, by descriptor. Its own mode says how the file is open: the
// owner may read or write as the holder may (fs/proc/fd.c and base.c), and neither with O_PATH.
func (s *scan) link(pid, dir int, name string) error {
	id, err := identifyAt(dir, name, 0)
	if err != nil { // closed meanwhile; on a file server that is dead or knows no root, so not ours; or not for us to see
		_, err = unix.Readlinkat(dir, name, make([]byte, 1))
		return ended(err)
	}
	disk, ok := s.want[id]
	if !ok {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ended(err)
	}
	if st.Mode&(unix.S_IRUSR|unix.S_IWUSR) == 0 {
		return nil
	}
	h := Holder{PID: pid, Disk: disk}
	s.found[h] = s.found[h] || st.Mode&unix.S_IWUSR != 0
	return nil
}

// mappings goes through the mapped files of a process, which outlive their descriptors. A line of maps is
// "start-end perms offset dev inode path", see proc_pid_maps(5). Its device is not the one that stat tells on btrfs, so
// the inode alone selects what is then looked at by its link in map_files.
func (s *scan) mappings(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 5 || !s.inodes[string(fields[4])] {
			continue
		}
		start, end, _ := strings.Cut(string(fields[0]), "-")
		link := fmt.Sprintf("/proc/%d/map_files/%s-%s", pid, strings.TrimLeft(start, "0"), strings.TrimLeft(end, "0"))
		if err := s.link(pid, unix.AT_FDCWD, link); err != nil {
			return err
		}
	}
	return lines.Err()
}
