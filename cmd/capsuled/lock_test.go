package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLockHost takes the lock, is refused a second one with the first one's process id, and gets it when that is gone.
func TestLockHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 {
		release, err := lockHost(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lockHost(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
			t.Errorf("a second daemon: %v", err)
		}
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLockHostLink does not follow a link that somebody left there.
func TestLockHostLink(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "lock"), filepath.Join(dir, "victim")
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	if _, err := lockHost(path); err == nil {
		t.Error("the lock is somebody's link")
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("the link was followed")
	}
}
