package systemd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envBoot marks the copy of this test that becomes systemd-nspawn; its value names the machine's cgroup.
const envBoot = "CAPSULED_SYSTEMD_BOOT"

const (
	cgroups      = "/sys/fs/cgroup"
	cgroupPrefix = "capsuled-systemd-test-"
)

// machine is a booted Debian system with systemd as process 1, in namespaces of its own inside of the test host.
// What it writes goes to a tmpfs over the shared root file system, but for the state directory, which is on a disk.
type machine struct {
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

	if err := removeCgroups(cgroupPrefix + "*"); err != nil { // of runs that were killed
		t.Fatal(err)
	}
	group := cgroupPrefix + rand.Text()
	cmd := exec.Command("/proc/self/exe", nspawnArgs(state, binds)...)
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
	m := machine{nspawn: strconv.Itoa(cmd.Process.Pid)}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(console.Name())
			t.Logf("console:\n%s\njournal:\n%s", text, m.tell())
		}
		_ = cmd.Process.Kill() // its machine goes with it
		<-ended
		if err := removeCgroups(group); err != nil {
			t.Error(err)
		}
	})
	m.leader = leaderOf(t, ready)
	// libvirt sets flags of bridge ports through sysfs. /proc/sys stays read-only but for the machine's own network:
	// the rest of it is not the machine's.
	for _, dir := range strings.Fields(m.run(t, "findmnt", "--noheadings", "--raw", "--output=TARGET", "--types=sysfs")) {
		m.run(t, "mount", "-o", "remount,rw", dir)
	}
	return m
}

func nspawnArgs(state string, binds []string) []string {
	args := []string{"systemd-nspawn", "--quiet", "--boot", "--directory=" + rootfsDir, "--volatile=overlay",
		"--machine=capsuled-test", "--register=no", "--keep-unit", "--private-network", "--capability=all",
		"--link-journal=no", "--console=pipe", "--notify-ready=yes", "--resolv-conf=off", "--timezone=off",
		"--bind=/dev/net/tun", "--bind=" + state + ":/var/lib/capsuled"}
	for _, b := range binds {
		args = append(args, "--bind-ro="+b)
	}
	return args
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

// removeCgroups removes the empty cgroups that machines left. Those of one that runs are in use and stay.
func removeCgroups(pattern string) error {
	if err := unix.Mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(cgroups, 0)
	own, err := ownCgroup(pattern)
	if err != nil {
		return err
	}
	tops, err := filepath.Glob(own)
	if err != nil {
		return err
	}
	for _, top := range tops {
		var dirs []string
		err = errors.Join(err, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		}))
		for _, d := range slices.Backward(dirs) { // children before their parents
			if e := unix.Rmdir(d); !errors.Is(e, unix.EBUSY) {
				err = errors.Join(err, e)
			}
		}
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

// commandLimit is for every command in the machine: long enough for a slow computer, short enough to tell a hang.
const commandLimit = 2 * time.Minute

// try runs a command inside and returns what it wrote to its two outputs.
func (m machine) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := m.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), err
}

// run is try for what must succeed.
func (m machine) run(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := m.try(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// exitCode is that of a command that ended with an error, and 0 without one.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// tell is the end of the journal, for tests that failed.
func (m machine) tell() string {
	if m.leader == "" {
		return ""
	}
	stdout, stderr, _ := m.try("journalctl", "--no-pager", "--output=short-precise", "--lines=200")
	return stdout + stderr
}
