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

// heldError says that a daemon, or another run of -fence, has the lock.
type heldError struct {
	path   string
	holder string // " (process N)", or "" when it did not say
}

func (e *heldError) Error() string {
	return fmt.Sprintf("another capsuled%s runs on this host and holds %s: a host has one daemon, whatever its state_dir; stop that one first", e.holder, filepath.Clean(e.path))
}

// lockHost makes this the host's one daemon until the returned function is called or the process ends. The file stays;
// it holds the process id of its holder, and by not being empty tells the unit of the fence that a daemon has run since
// the host was started.
func lockHost(path string) (release func() error, err error) {
	f, err := claimHost(path)
	if err != nil {
		return nil, err
	}
	err = errors.Join(f.Truncate(0), second(f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)))
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, fmt.Errorf("lock of the host: %w", errors.Join(err, f.Close()))
	}
	return f.Close, nil
}

// claimHost takes the lock, which the returned file holds until it is closed, and leaves its text as it is. The error is
// a heldError when somebody has it.
func claimHost(path string) (f *os.File, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the host: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		held := &heldError{path: path, holder: holder(f)}
		return nil, errors.Join(held, f.Close())
	case err != nil:
		return nil, fmt.Errorf("lock of the host: %s: %w", path, errors.Join(err, f.Close()))
	}
	return f, nil
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
