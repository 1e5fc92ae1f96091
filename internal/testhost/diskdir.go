package testhost

import (
	"os"
	"testing"
)

// DiskDir returns an empty directory that QEMU's user can pass through, unlike t.TempDir, and that lies on a disk.
// The test's end removes it.
func DiskDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib/libvirt/images", "test-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal("testhost:", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error("testhost:", err)
		}
	})
	return dir
}
