package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostLockFile is the same for every daemon, whatever its configuration: what two of them would fight over, the
// firewall's chains and the leases of the network, is the host's and not the state directory's.
const hostLockFile = "/run/capsuled.lock"

// lockHost makes this the host's one daemon until the returned function is called or the process ends. The file stays;
// it holds the process id of its holder.
func lockHost(path string) (release func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the host: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another capsuled%s runs on this host and holds %s: a host has one daemon, whatever its state_dir; stop that one first", holder(f), filepath.Clean(path))
	}
	if err != nil {
		return nil, fmt.Errorf("lock of the host: %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(0), second(f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0))); err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, fmt.Errorf("lock of the host: %w", err)
	}
	return f.Close, nil
}

// holder names the process that wrote its id into the lock; "" when it has not yet.
func holder(f io.Reader) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

func second[T any](_ T, err error) error { return err }
