package testhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mkfs are the commands that make each kind of file system in a file; reflinks where the kind has them.
var mkfs = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
	"xfs":   {"mkfs.xfs", "-q", "-f", "-m", "reflink=1"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},
}

// LoopFS makes a file system of a kind (ext4, xfs, btrfs) and a size in bytes in a sparse file, mounts it in the
// test's own directory and returns where. The test's end unmounts it. XFS needs 300 MiB, btrfs 110 MiB. The mount
// point can be entered by every user.
func LoopFS(t testing.TB, kind string, bytes int64) string {
	t.Helper()
	argv, ok := mkfs[kind]
	if !ok {
		t.Fatalf("testhost: no file system %q", kind)
	}
	// A directory of its own, because a cleanup of t.TempDir must find nothing mounted below it.
	dir := t.TempDir()
	file, at := filepath.Join(dir, kind+".img"), filepath.Join(dir, kind)
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, bytes), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal("testhost:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, argv[0], append(argv[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("testhost: %s: %v: %s", argv[0], err, out)
	}
	device, err := attachLoop(file)
	if err != nil {
		t.Fatal("testhost:", err)
	}
	defer func() { _ = device.Close() }()
	if err := unix.Mount(device.Name(), at, kind, 0, ""); err != nil {
		t.Fatalf("testhost: mount %s on %s: %v", device.Name(), at, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("testhost: unmount %s: %v", at, err)
		}
	})
	return at
}

// attachLoop binds a free loop device to the file. The device frees itself when the last user, the mount or the
// returned handle, is gone: a killed host leaves none behind.
func attachLoop(path string) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = backing.Close() }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		device, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		_ = device.Close()
		if !errors.Is(err, unix.EBUSY) { // busy: another took it first
			return nil, fmt.Errorf("configure %s: %w", device.Name(), err)
		}
	}
}

// openLoop opens a loop device by number; the kernel makes new ones on demand, but not in a private /dev.
func openLoop(n int) (*os.File, error) {
	const loopMajor = 7
	path := fmt.Sprintf("/dev/loop%d", n)
	err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n))))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}
