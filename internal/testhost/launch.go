package testhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidFile in the state directory holds the pid of the init as the machine counts it.
const pidFile = "pid"

// OuterPID is the pid, on the machine, of the host that this process is in: `nsenter -t PID -a` enters it.
func OuterPID() (int, error) {
	b, err := os.ReadFile(filepath.Join(os.Getenv(envState), pidFile))
	if err != nil {
		return 0, fmt.Errorf("testhost: %w", err)
	}
	return strconv.Atoi(string(b))
}

// launch is the launcher's whole life: it makes the state directory, starts janitor and init, and waits.
func launch(c config) int {
	if err := checkMachine(c); err != nil {
		return complain(err)
	}
	state, err := newStateDir()
	if err != nil {
		return complain(err)
	}
	stopJanitor, err := startJanitor(state)
	if err != nil {
		_ = os.RemoveAll(state)
		return complain(err)
	}
	defer stopJanitor()
	closeDoor, err := openGuestDoor(state)
	if err != nil {
		return complain(err)
	}
	defer closeDoor()

	cmd := again(roleInit, state)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		return complain(fmt.Errorf("start the init: %w", err))
	}
	go pass(signals, cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(state, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		_ = cmd.Process.Kill()
		return complain(err)
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		return complain(fmt.Errorf("wait for the init: %w", err))
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// again prepares this program, with its arguments, in another role. The init gets no end of a pipe and no file
// but the standard ones.
func again(role, state string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = slices.Clone(os.Args)
	cmd.Env = append(os.Environ(), envRole+"="+role, envState+"="+state, envProgram+"="+program())
	return cmd
}

// newStateDir makes the directory that holds all that the host writes, on a disk if the machine has one: reflinks
// and direct I/O mean nothing on a tmpfs.
func newStateDir() (string, error) {
	parent := os.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		parent = "/var/tmp"
	}
	state, err := os.MkdirTemp(parent, "testhost-")
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	// QEMU runs as a user of its own and must be able to pass through.
	return state, errors.Join(os.Chmod(state, 0o711), os.Mkdir(filepath.Join(state, "t"), 0o711), noteOutside(state))
}

// pass hands signals to pid. A terminal sends its own to every process of the foreground group, the tests
// included: passing those on would deliver them twice.
func pass(signals <-chan os.Signal, pid int) {
	for s := range signals {
		n := s.(syscall.Signal)
		if (n == unix.SIGINT || n == unix.SIGQUIT) && inForeground() {
			continue
		}
		_ = unix.Kill(pid, n) // gone already: then so is the reason to signal it
	}
}

// inForeground reports whether a key press reaches this process.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func exitCode(w syscall.WaitStatus) int {
	if w.Signaled() {
		return 128 + int(w.Signal())
	}
	return w.ExitStatus()
}
