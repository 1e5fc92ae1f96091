package testhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// devices are those of the machine that a host has, where the machine has them. Not /dev/kvm: inside a virtual
// machine the node may exist and not work, and libvirt then probes QEMU anew at every call.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty", "fuse", "loop-control", "btrfs-control", "net/tun"}

var devLinks = map[string]string{
	"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "core": "/proc/kcore",
}

// mountDev replaces /dev.
func mountDev(state string) error {
	dev := filepath.Join(state, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, d := range []string{"net", "pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, d), 0o755); err != nil {
			return err
		}
	}
	loops, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return err
	}
	for _, l := range loops {
		if err := bindDevice(l, filepath.Join(dev, filepath.Base(l))); err != nil {
			return err
		}
	}
	for _, d := range devices {
		if err := bindDevice(filepath.Join("/dev", d), filepath.Join(dev, d)); err != nil {
			return err
		}
	}
	for name, target := range devLinks {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NOEXEC)
	return errors.Join(
		unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", flags, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
		unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", flags|unix.MS_NODEV, "mode=1777"),
		unix.Mount("mqueue", filepath.Join(dev, "mqueue"), "mqueue", flags|unix.MS_NODEV, ""),
		unix.Mount(dev, "/dev", "", unix.MS_MOVE, ""),
	)
}

// bindDevice shows one node of the machine; a bind mount works also where nodes cannot be made.
func bindDevice(from, to string) error {
	info, err := os.Stat(from)
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return nil
	}
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("device %s: %w", from, err)
	}
	return nil
}
