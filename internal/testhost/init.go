package testhost

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostname is the host's name for itself.
const hostname = "testhost"

// runInit is the whole life of the host's process 1. When it returns the process exits, and the kernel ends
// every other process of the host.
func runInit(c config) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	state := os.Getenv(envState)
	if err := setUp(c, state); err != nil {
		return complain(err)
	}
	pid, err := startInside(state)
	if err != nil {
		return complain(err)
	}
	go pass(signals, pid)
	return reap(pid)
}

func setUp(c config, state string) error {
	if err := checkNamespaces(state); err != nil {
		return err
	}
	// First of all: no mount made from here on may reach the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	var groups []hierarchy
	noGroups := error(nil)
	if c.cgroups {
		groups, noGroups = enterCgroups(state)
	} else {
		noGroups = fmt.Errorf("switched off")
	}
	if err := mountAll(state, groups); err != nil {
		return err
	}
	if err := connectWorld(); err != nil {
		return err
	}
	if !c.libvirt {
		return nil
	}
	if err := configureLibvirt(noGroups); err != nil {
		return err
	}
	return startLibvirt()
}

// startInside starts the tests or the command. It is a child like any other to reap: the runtime must not wait
// for it, so it is only a number.
func startInside(state string) (int, error) {
	cmd := again(roleInside, state)
	env := append(cmd.Env, "TMPDIR="+filepath.Join(state, "t"))
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, fmt.Errorf("start inside: %w", err)
	}
	return pid, nil
}

// reap waits for every process that ends in the host, its own children and orphans alike, until pid does.
func reap(pid int) int {
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return complain(fmt.Errorf("wait: %w", err))
		case ended == pid:
			return exitCode(status)
		}
	}
}
