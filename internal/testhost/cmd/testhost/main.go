// Testhost puts a command in a hypervisor host of its own:
//
//	go run ./internal/testhost/cmd/testhost -- virsh -c qemu:///system list --all
//
// Standard files, exit code and key presses pass through; with no command it runs a shell. When the command
// ends, everything it started ends with it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/capsuled/capsuled/internal/testhost"
)

const usage = `usage: testhost [flags] [--] [COMMAND ARGS...]

Runs COMMAND (default: a shell) as root in a hypervisor host of its own: new pid, mount, network, uts, ipc and cgroup
namespaces, a private /dev, /run, /etc and /var/lib/libvirt, its own libvirtd, and an outside world:

  ip netns exec world tcpdump -ni ex0     what leaves the host, seen from 198.51.100.2

The exit code is the command's; 125 if there could be no host, 126 or 127 if there is no such command.

`

func main() {
	flags := flag.NewFlagSet("testhost", flag.ExitOnError)
	libvirt := flags.Bool("libvirt", true, "start virtlogd and libvirtd")
	cgroups := flags.Bool("cgroups", true, "give the host cgroups of its own where the machine can")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:]) // exits on errors

	var opts []testhost.Option
	if *libvirt {
		opts = append(opts, testhost.WithLibvirt())
	}
	if !*cgroups {
		opts = append(opts, testhost.WithoutCgroups())
	}
	argv := flags.Args()
	if len(argv) == 0 {
		argv = []string{"bash"}
	}
	os.Exit(testhost.Enter(func() int { return replace(argv) }, opts...))
}

// replace turns this process into the command; it returns only if there is none.
func replace(argv []string) int {
	path, err := exec.LookPath(argv[0])
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "testhost:", err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}
