package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envBoot marks the copy of this test that becomes systemd-nspawn; its value names the machine's cgroup.
const envBoot = "CAPSULED_SYSTEMD_BOOT"

const cgroups = "/sys/fs/cgroup"

// machine is a booted Debian system with systemd as process 1, in namespaces of its own inside of the test host.
// What it writes goes to a tmpfs over the shared root file system, but for the state directory, which is on a disk.
type machine struct {
	t      *testing.T
	nspawn string // pid of systemd-nspawn
	leader string // pid of the machine's process 1, as systemd-nspawn sees it
}

// bootMachine starts the machine, waits until systemd has started everything, and ends it with the test. binds are
// read-only mounts, "SOURCE:TARGET".
func bootMachine(t *testing.T, binds ...string) machine {
	t.Helper()
	dir := t.TempDir()
	notify := filepath.Join(dir, "notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()

	args := []string{"systemd-nspawn", "--quiet", "--boot", "--directory=" + rootfsDir, "--volatile=overlay",
		"--machine=capsuled-test", "--register=no", "--keep-unit", "--private-network", "--capability=all",
		"--link-journal=no", "--console=pipe", "--notify-ready=yes", "--resolv-conf=off", "--timezone=off",
		"--bind=/dev/net/tun", "--bind=" + state + ":/var/lib/capsuled"}
	for _, b := range binds {
		args = append(args, "--bind-ro="+b)
	}
	group := fmt.Sprintf("capsuled-systemd-test-%d", os.Getpid())
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envBoot+"="+group, "NOTIFY_SOCKET="+notify, "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = console, console
	// systemd-nspawn takes process 1's cgroup for the top of all: it must see itself there.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		ready.Close() // nobody will say READY any more
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its machine goes with it
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(console.Name())
			t.Logf("console:\n%s", text)
		}
		if err := removeCgroup(group); err != nil {
			t.Error(err)
		}
	})
	return machine{t, strconv.Itoa(cmd.Process.Pid), leaderOf(t, ready)}
}

// leaderOf reads nspawn's notifications until the machine is up, and returns the pid of its process 1.
func leaderOf(t *testing.T, ready *net.UnixConn) string {
	t.Helper()
	if err := ready.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	leader := ""
	buf := make([]byte, 4096)
	for {
		n, err := ready.Read(buf)
		if err != nil {
			t.Fatalf("the machine did not come up: %v", err)
		}
		for line := range strings.Lines(string(buf[:n])) {
			switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); {
			case name == "X_NSPAWN_LEADER_PID":
				leader = value
			case name == "READY" && leader != "":
				return leader
			}
		}
	}
}

// becomeMachine is the life of the copy that envBoot marks: a cgroup of its own becomes all that it sees of them, and
// then it is systemd-nspawn. Nothing here needs undoing: the mounts end with the process.
func becomeMachine() error {
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	dir, err := ownCgroup(os.Getenv(envBoot))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroups: %w", err)
	}
	// Mounted again it shows the new namespace's root.
	if err := errors.Join(unix.Unmount(cgroups, 0), unix.Mount("cgroup2", cgroups, "cgroup2", 0, "")); err != nil {
		return fmt.Errorf("mount own cgroup: %w", err)
	}
	program, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	return syscall.Exec(program, os.Args[1:], os.Environ())
}

// ownCgroup is the path of a cgroup below this process's own, so that whatever limits the tests limits it too.
func ownCgroup(name string) (string, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^0::(/.*)$`).FindSubmatch(self)
	if m == nil {
		return "", fmt.Errorf("the kernel has no cgroup v2: %q", self)
	}
	return filepath.Join(cgroups, string(m[1]), name), nil
}

// removeCgroup removes the empty cgroups that the machine left.
func removeCgroup(name string) error {
	if err := unix.Mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(cgroups, 0)
	top, err := ownCgroup(name)
	if err != nil {
		return err
	}
	var dirs []string
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append([]string{path}, dirs...) // children before their parents
		}
		return err
	})
	for _, d := range dirs {
		err = errors.Join(err, unix.Rmdir(d))
	}
	return err
}

// command prepares a command inside of the machine.
func (m machine) command(ctx context.Context, args ...string) *exec.Cmd {
	into := []string{"--target=" + m.nspawn, "--pid", "--mount", "--", "nsenter", "--target=" + m.leader, "--all", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(into, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"}
	return cmd
}

// try runs a command inside and returns all that it wrote.
func (m machine) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := m.command(ctx, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run is try for what must succeed.
func (m machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.try(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
