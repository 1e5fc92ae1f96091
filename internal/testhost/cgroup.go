package testhost

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup v1 tree and the place in it that is this host's.
type hierarchy struct {
	controllers string // as in mount's options: "cpu,cpuacct"
	dir         string // the host's own cgroup, below that of the caller so that its limits hold
}

var errNoCgroups = errors.New("the machine has no cgroup v1 controllers")

// v1Controllers are those libvirt knows how to use.
var v1Controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}

// ownHierarchies finds the v1 trees and the host's place in each; it changes nothing and answers the same for
// launcher, init and janitor as long as none of them has been moved.
func ownHierarchies(state string) []hierarchy {
	self, _ := os.ReadFile("/proc/self/cgroup")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var out []hierarchy
	for line := range strings.Lines(string(self)) { // 4:memory:/path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !knownControllers(f[1]) {
			continue
		}
		if root, at, ok := mountOf(string(mounts), f[1]); ok {
			below := strings.TrimPrefix(f[2], strings.TrimSuffix(root, "/"))
			out = append(out, hierarchy{f[1], filepath.Join(at, below, filepath.Base(state))})
		}
	}
	return out
}

func knownControllers(list string) bool {
	return list != "" && !slices.ContainsFunc(strings.Split(list, ","), func(c string) bool {
		return !slices.Contains(v1Controllers, c)
	})
}

// mountOf returns the root within the tree and the mount point of the v1 tree with exactly these controllers.
func mountOf(mountinfo, controllers string) (root, at string, ok bool) {
	want := slices.Sorted(strings.SplitSeq(controllers, ","))
	for line := range strings.Lines(mountinfo) {
		head, tail, found := strings.Cut(line, " - cgroup ") // 26 25 0:22 ROOT AT OPTS - cgroup SOURCE SUPEROPTS
		h, t := strings.Fields(head), strings.Fields(tail)
		if !found || len(h) < 5 || len(t) < 2 {
			continue
		}
		have := slices.DeleteFunc(strings.Split(t[1], ","), func(o string) bool { return !slices.Contains(v1Controllers, o) })
		slices.Sort(have)
		if slices.Equal(slices.Compact(have), want) {
			return h[3], h[4], true
		}
	}
	return "", "", false
}

// enterCgroups moves this process into cgroups of the host's own and makes them the root of what it sees. The
// calling thread must be locked: the namespace is the thread's and that of what it starts.
func enterCgroups(state string) ([]hierarchy, error) {
	all := ownHierarchies(state)
	if len(all) == 0 {
		return nil, errNoCgroups
	}
	for _, h := range all {
		if err := os.Mkdir(h.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		if err := inheritCPUs(h.dir); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(h.dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return nil, fmt.Errorf("cgroup: new namespace: %w", err)
	}
	return all, nil
}

// inheritCPUs fills a new cpuset, which starts empty and takes no process until it names processors and memory nodes.
func inheritCPUs(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "cpuset.cpus")); err != nil {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), bytes.TrimSpace(b), 0); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0)
}

// mountCgroups shows the host its own cgroups on /sys/fs/cgroup.
func mountCgroups(all []hierarchy) error {
	if len(all) == 0 {
		return nil
	}
	const at = "/sys/fs/cgroup"
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	for _, h := range all {
		dir := filepath.Join(at, h.controllers)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", dir, "cgroup", 0, h.controllers); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", h.controllers, err)
		}
		for c := range strings.SplitSeq(h.controllers, ",") {
			if c != h.controllers {
				if err := os.Symlink(h.controllers, filepath.Join(at, c)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeCgroup removes one cgroup. A killed process leaves its cgroup some time after its parent has learnt of
// its end, and nothing announces it in v1: the only way is to try again for a while.
func removeCgroup(dir string) error {
	var err error
	for range 500 {
		if err = unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
