package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holders are the QEMU processes that have a file open whose name begins with one of the names, in a directory: by
// process id, and which of the names. Links of /proc (proc(5), /proc/pid/fd) tell of files that were removed or
// replaced, too.
func holders(dir string, names []string) (map[int][]string, error) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	found := map[int][]string{}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
		if err != nil || !strings.HasPrefix(string(comm), "qemu-system") {
			continue
		}
		open, err := openFiles(pid)
		if errors.Is(err, fs.ErrNotExist) { // it ended
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			for _, path := range open {
				if strings.HasPrefix(path, filepath.Join(dir, name)) {
					found[pid] = append(found[pid], name)
					break
				}
			}
		}
	}
	return found, nil
}

// openFiles are the paths of what a process has open.
func openFiles(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, fd := range list {
		if path, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil { // else it was closed meanwhile
			paths = append(paths, path)
		}
	}
	return paths, nil
}
