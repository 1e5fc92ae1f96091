package testhost_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/internal/testhost"
)

// The host under test here is one within the host that these tests run in: what is outside of it can be watched.

// testhostProgram builds the command once for all tests.
func testhostProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "testhost")
	command(t, "go", "build", "-o", path, "./cmd/testhost")
	return path
}

func TestExitCodesPassThrough(t *testing.T) {
	program := testhostProgram(t)
	for _, row := range []struct {
		name string
		args []string
		code int
	}{
		{"success", []string{"true"}, 0},
		{"code", []string{"sh", "-c", "exit 42"}, 42},
		{"signal", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{"no such command", []string{"no-such-command"}, 127},
		{"no program", []string{"/etc/hosts"}, 126},
		{"orphans do not hold it up", []string{"sh", "-c", "(exec setsid tail -f /dev/null) & exit 5"}, 5},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), program, append([]string{"-libvirt=false", "--"}, row.args...)...)
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != row.code {
				t.Errorf("exit code %d, want %d", got, row.code)
			}
		})
	}
}

func TestStandardFilesPassThrough(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), testhostProgram(t), "-libvirt=false", "--", "sh", "-c", "pwd; cat; echo err >&2; echo $MARK")
	cmd.Dir = "/usr"
	cmd.Env = append(os.Environ(), "MARK=kept")
	cmd.Stdin = strings.NewReader("in\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if out.String() != "/usr\nin\nkept\n" || errs.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
}

func TestNothingOutsideChanges(t *testing.T) {
	program := testhostProgram(t)
	before := outside(t)
	command(t, program, "--", "sh", "-ec", `
		ip link add stray type bridge
		iptables -A INPUT -p tcp --dport 9 -j DROP
		mkdir /etc/capsuled/x /var/lib/capsuled/x /run/stray /etc/stray /var/lib/stray
		echo stray >>/etc/hosts
		mount -t tmpfs tmpfs /mnt
		hostname stray
		mknod /dev/stray c 1 3
		test "$(ps -o args= -p 1)" != ""
		test ! -e /dev/kvm
		virsh -c qemu:///system list`)
	if diff := cmp.Diff(before, outside(t)); diff != "" {
		t.Errorf("outside of the host something changed (-before +after):\n%s", diff)
	}
}

// The set-up outside of namespaces would turn the machine upside down.
func TestInitRefusesTheMachine(t *testing.T) {
	program := testhostProgram(t)
	before := outside(t)
	cmd := exec.CommandContext(t.Context(), program, "-libvirt=false", "--", "true")
	cmd.Env = append(os.Environ(), "CAPSULED_TESTHOST_ROLE=init")
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != testhost.ExitSetup {
		t.Errorf("exit code %d: %s", got, out)
	}
	if diff := cmp.Diff(before, outside(t)); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
}

// outside is what a host could change around it.
func outside(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, args := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "route"}, {"ip", "netns"}, {"iptables-save"}, {"hostname"},
		{"ls", "/dev", "/run", "/etc", "/etc/libvirt", "/var/lib", "/var/lib/libvirt", os.TempDir(), filepath.Dir(os.TempDir())},
		{"cat", "/etc/hosts", "/proc/self/mounts", "/proc/sys/net/ipv4/ip_forward"},
		{"find", "/sys/fs/cgroup", "-type", "d"},
	} {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		// An address is tentative for a moment after its link came up (RFC 4862), whoever looks.
		all[strings.Join(args, " ")] = strings.ReplaceAll(string(out), " tentative", "")
	}
	return all
}

func TestKilledLauncherLeavesNothing(t *testing.T) {
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			program := testhostProgram(t)
			before := outside(t)
			cmd := exec.CommandContext(t.Context(), program, "--", "sh", "-c", "setsid tail -f /dev/null & echo $CAPSULED_TESTHOST; wait")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			state, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			state = strings.TrimSpace(state)
			family := watch(t, state)
			if len(family) < 5 { // init, janitor, virtlogd, libvirtd, sh, tail
				t.Fatalf("%d processes in the host", len(family))
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			for _, fd := range family {
				awaitEnd(t, fd)
			}
			if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state directory: %v", err)
			}
			if diff := cmp.Diff(before, outside(t)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
}

// watch returns pidfds of all processes of a host, janitor included, but for its launcher: those whose environment
// names the state directory.
func watch(t *testing.T, state string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), "CAPSULED_TESTHOST="+state) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

func awaitEnd(t *testing.T, pidfd int) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 60_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("a process of the host lives on (%v)", err)
		}
		return
	}
}

func TestInterrupt(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), testhostProgram(t), "-libvirt=false", "--",
		"sh", "-c", `trap 'echo caught; exit 9' INT; echo ready; while :; do tail -f /dev/null & wait; done`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal: nobody else passes it on
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(lines)
	_ = cmd.Wait()
	if string(rest) != "caught\n" || cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("said %q, exit code %d", rest, cmd.ProcessState.ExitCode())
	}
}

func TestLibvirtWithoutCgroups(t *testing.T) {
	command(t, testhostProgram(t), "-cgroups=false", "--", "sh", "-ec", `
		echo "<domain type='qemu'><name>x</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os></domain>" >/run/x.xml
		virsh -c qemu:///system create /run/x.xml
		virsh -c qemu:///system destroy x`)
}

func TestWorldIsAWireAway(t *testing.T) {
	l, err := net.Listen("tcp", testhost.HostAddr+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cmd := testhost.World(t.Context(), "bash", "-c", "echo hello >/dev/tcp/"+testhost.HostAddr+"/"+port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello\n" || !strings.HasPrefix(c.RemoteAddr().String(), testhost.WorldAddr+":") {
		t.Errorf("%q from %v: %v", got, c.RemoteAddr(), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
