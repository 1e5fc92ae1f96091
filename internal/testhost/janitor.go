package testhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// startJanitor starts the process that cleans up when the launcher has ended: the two share a pipe on which nobody
// ever writes. The returned function ends the wait and returns when all is clean.
func startJanitor(state string) (func(), error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("janitor: %w", err)
	}
	cmd := again(roleJanitor, state)
	cmd.Stdin = r
	// A session of its own: what ends the launcher's process group must not end the one that cleans up after it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = errors.Join(cmd.Start(), r.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("janitor: %w", err), w.Close())
	}
	return func() {
		_ = w.Close()
		_ = cmd.Wait()
	}, nil
}

// runJanitor is the janitor's whole life. Its standard files are the pipe and /dev/null: whoever reads the tests'
// output must not wait for it.
func runJanitor() int {
	_, _ = io.Copy(io.Discard, os.Stdin) // ends when the last copy of the other end is closed
	state := os.Getenv(envState)
	err := errors.Join(removeCgroups(state), removeState(state))
	if err != nil {
		return ExitSetup
	}
	return 0
}

// removeState removes the state directory unless something is mounted below it: a mount that leaked out of the
// host's namespace could lead to files that are not ours.
func removeState(state string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("testhost: read mounts: %w", err)
	}
	if strings.Contains(string(mounts), " "+state+"/") {
		return fmt.Errorf("testhost: %s has mounts in it", state)
	}
	return os.RemoveAll(state)
}

// removeCgroups removes the host's cgroups, children first, when the kernel has let the last process go.
func removeCgroups(state string) error {
	var errs []error
	for _, h := range ownHierarchies(state) {
		var dirs []string
		err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		errs = append(errs, err)
		for i := len(dirs) - 1; i >= 0; i-- {
			errs = append(errs, removeCgroup(dirs[i]))
		}
	}
	return errors.Join(errs...)
}
