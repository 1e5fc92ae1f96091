package testhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mirrored directories get a layer of the host's own: files are copied, so that they can be changed and replaced,
// directories are the machine's. That makes room for directories that the machine lacks.
var mirrored = []string{"/etc", "/var/lib"}

// private directories belong to the host alone, begin empty and lie on the state directory's disk. One that the
// machine lacks and that cannot be made in a mirror is left out: nothing that is installed uses it.
var private = []struct {
	path string
	mode fs.FileMode
}{
	{"/run", 0o755},
	{"/etc/libvirt", 0o755},
	{"/etc/capsuled", 0o755},
	{"/var/lib/libvirt", 0o755},
	{"/var/log/libvirt", 0o700},
	{"/var/cache/libvirt", 0o711},
	{"/var/lib/capsuled", 0o711},
}

// mountAll turns the machine's file system, of which this process has its own view, into the host's.
func mountAll(state string, groups []hierarchy) error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// The old sysfs shows the old network namespace; flags of bridge ports could not be set through it.
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := mountCgroups(groups); err != nil {
		return err
	}
	if err := mountDev(state); err != nil {
		return err
	}
	for _, path := range mirrored {
		if err := mirror(state, path); err != nil {
			return fmt.Errorf("mirror %s: %w", path, err)
		}
	}
	for i, p := range private {
		if err := makePrivate(filepath.Join(state, fmt.Sprintf("private%d", i)), p.path, p.mode); err != nil {
			return fmt.Errorf("private %s: %w", p.path, err)
		}
	}
	return nameHost()
}

func makePrivate(own, path string, mode fs.FileMode) error {
	if slices.Contains(mirrored, filepath.Dir(path)) {
		if err := os.MkdirAll(path, mode); err != nil {
			return err
		}
	} else if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Mkdir(own, mode); err != nil {
		return err
	}
	if path == "/etc/libvirt" {
		if err := copyLibvirtConfig(path, own); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(own, mode), unix.Mount(own, path, "", unix.MS_BIND, ""))
}

// copyLibvirtConfig takes over the machine's configuration files and network filters, but none of its domains,
// networks, pools and secrets.
func copyLibvirtConfig(from, to string) error {
	if err := os.Mkdir(filepath.Join(to, "nwfilter"), 0o700); err != nil {
		return err
	}
	for _, pattern := range []string{"*.conf", "nwfilter/*.xml"} {
		files, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := copyFile(f, filepath.Join(to, strings.TrimPrefix(f, from))); err != nil {
				return err
			}
		}
	}
	return nil
}

// mirror lays a tmpfs over dir with copies of its files and the directories of the machine mounted into it.
func mirror(state, dir string) error {
	scratch, err := os.MkdirTemp(state, "mirror-")
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := mirrorEntry(filepath.Join(dir, e.Name()), filepath.Join(scratch, e.Name()), e); err != nil {
			return err
		}
	}
	return errors.Join(unix.Mount(scratch, dir, "", unix.MS_MOVE, ""), os.Remove(scratch))
}

func mirrorEntry(from, to string, e fs.DirEntry) error {
	switch {
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	case e.Type() == fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case e.Type().IsRegular():
		return copyFile(from, to)
	}
	return nil // sockets and the like stay behind
}

// copyFile keeps owner and mode: /etc/shadow stays as unreadable as it was.
func copyFile(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(to, int(st.Uid), int(st.Gid)), os.Chmod(to, fs.FileMode(st.Mode&0o777)))
}

// nameHost lets the host resolve its own name; the machine's resolver lies beyond its network.
func nameHost() error {
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := strings.TrimRight(string(hosts), "\n") + "\n127.0.1.1 " + hostname + "\n"
	return os.WriteFile("/etc/hosts", []byte(text), 0o644)
}
