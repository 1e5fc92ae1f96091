package systemd_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) {
	if os.Getenv(envBoot) != "" {
		fmt.Fprintln(os.Stderr, "systemd:", becomeMachine()) // it returns only when it fails
		os.Exit(1)
	}
	if !testhost.Inside() {
		if err := prepare(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "systemd:", err)
			os.Exit(1)
		}
	}
	testhost.Main(m, testhost.WithoutCgroups())
}

// installed are the files of the package, as make install puts them.
var installed = map[string]string{
	binDir + "/capsuled":     "/usr/bin/capsuled",
	binDir + "/capsulectl":   "/usr/bin/capsulectl",
	"capsuled.service":       "/usr/lib/systemd/system/capsuled.service",
	"capsuled-fence.service": "/usr/lib/systemd/system/capsuled-fence.service",
	"capsuled.sysusers":      "/usr/lib/sysusers.d/capsuled.conf",
}

// bootInstalled is a machine with the package's files, and more of them: SOURCE -> TARGET.
func bootInstalled(t *testing.T, more map[string]string) machine {
	t.Helper()
	var binds []string
	for _, files := range []map[string]string{installed, more} {
		for from, to := range files {
			abs, err := filepath.Abs(from)
			if err != nil {
				t.Fatal(err)
			}
			binds = append(binds, abs+":"+to)
		}
	}
	m := bootMachine(t, binds...)
	m.run(t, "systemd-sysusers")
	return m
}

// property is one property of the unit, as systemctl show prints it.
func (m machine) property(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "systemctl", "show", "--value", "--property="+name, "capsuled.service")
}

// write puts a file into the machine.
func (m machine) write(t *testing.T, path, text string) {
	t.Helper()
	m.run(t, "mkdir", "-p", filepath.Dir(path))
	cmd := m.command(t.Context(), "tee", path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v\n%s", path, err, out)
	}
}

// override lays a drop-in over the unit.
func (m machine) override(t *testing.T, text string) {
	t.Helper()
	m.write(t, "/run/systemd/system/capsuled.service.d/test.conf", "[Service]\n"+text)
	m.run(t, "systemctl", "daemon-reload")
}

// readyz asks the daemon on its socket, once, whether it is ready.
func (m machine) readyz(t *testing.T) int {
	t.Helper()
	socket := fmt.Sprintf("/proc/%s/root/proc/%s/root/run/capsuled/capsuled.sock", m.nspawn, m.leader)
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://capsuled/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestUnit(t *testing.T) {
	m := bootInstalled(t, nil)
	// It succeeds when it only warns, and warns on standard error.
	if stdout, stderr, err := m.try("systemd-analyze", "verify", "capsuled.service"); err != nil || stdout+stderr != "" {
		t.Errorf("systemd-analyze verify: %v\n%s%s", err, stdout, stderr)
	}
	// 4.7 of 10 is what is left when the daemon may do what it must; less is welcome.
	m.run(t, "systemd-analyze", "security", "--no-pager", "--threshold=47", "capsuled.service")

	// When start returns the daemon is ready, on a machine without any configuration.
	at := m.cursor(t)
	m.run(t, "systemctl", "start", "capsuled")
	if code := m.readyz(t); code != http.StatusOK {
		t.Errorf("readyz after start: %d", code)
	}
	m.await(t, at, "static resolver answers")
	if status := m.property(t, "StatusText"); !strings.HasPrefix(status, "serving") {
		t.Errorf("status text: %q", status)
	}
	if out := m.run(t, "systemctl", "status", "--no-pager", "capsuled"); !strings.Contains(out, "Status: \"serving") {
		t.Errorf("systemctl status: %s", out)
	}
	got := strings.Fields(m.run(t, "stat", "--format=%n:%a:%U:%G", "/var/lib/capsuled", "/run/capsuled", "/run/capsuled/capsuled.sock", "/etc/capsuled"))
	if d := cmp.Diff([]string{"/var/lib/capsuled:711:root:root", "/run/capsuled:755:root:root",
		"/run/capsuled/capsuled.sock:660:root:capsuled", "/etc/capsuled:750:root:root"}, got); d != "" {
		t.Error(d)
	}
	m.run(t, "setpriv", "--reuid=nobody", "--regid=capsuled", "--clear-groups", "capsulectl", "list")
	if out, _, err := m.try("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "capsulectl", "list"); err == nil {
		t.Errorf("a stranger was let in: %s", out)
	}
	m.run(t, "systemctl", "stop", "capsuled")
	if result, status := m.property(t, "Result"), m.property(t, "ExecMainStatus"); result != "success" || status != "0" {
		t.Errorf("after stop: result %s, status %s", result, status)
	}
}

// TestCapsuleOutlivesDaemon: with the hardening on a capsule can be made from images wherever they lie, and neither
// stop, restart, kill -9 of the daemon nor a restart of libvirtd touches it.
func TestCapsuleOutlivesDaemon(t *testing.T) {
	guest := testhost.Guest(t)
	m := bootInstalled(t, map[string]string{guest.Qcow2: "/home/somebody/guest.qcow2"})
	m.run(t, "systemctl", "start", "capsuled")
	m.run(t, "cp", "/home/somebody/guest.qcow2", "/tmp/guest.qcow2")
	image := m.run(t, "capsulectl", "image", "add", "--name", "home", "/home/somebody/guest.qcow2")
	m.run(t, "capsulectl", "image", "add", "--name", "tmp", "/tmp/guest.qcow2")
	m.write(t, "/run/password", "secret\n")
	id := m.run(t, "capsulectl", "create", "--wait", "--image", image, "--memory", "256", "--password-file", "/run/password")
	m.run(t, "capsulectl", "launch", "--wait", id)

	// The processes of QEMU, with their start times, and the rules that fence them.
	alive := func() []string {
		return slices.Concat(strings.Fields(m.run(t, "ps", "-C", "qemu-system-x86_64", "-o", "pid=,lstart=")), rules(t, m))
	}
	before := alive()
	if len(before) == 0 {
		t.Fatal("no capsule runs")
	}
	for _, tt := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"restart", func(t *testing.T) { m.run(t, "systemctl", "restart", "capsuled") }},
		{"stop", func(t *testing.T) { m.run(t, "systemctl", "stop", "capsuled") }},
		{"start", func(t *testing.T) { m.run(t, "systemctl", "start", "capsuled") }},
		{"kill", func(t *testing.T) {
			at := m.cursor(t)
			m.run(t, "systemctl", "kill", "--signal=KILL", "--kill-whom=main", "capsuled")
			m.await(t, at, "Main process exited", "Started capsuled.service")
		}},
		{"restart of the fence", func(t *testing.T) { m.run(t, "systemctl", "restart", "capsuled-fence") }},
		{"stop of the fence", func(t *testing.T) { m.run(t, "systemctl", "stop", "capsuled-fence") }},
		{"restart of libvirtd", func(t *testing.T) {
			pid, at := m.property(t, "MainPID"), m.cursor(t)
			m.run(t, "systemctl", "restart", "libvirtd")
			m.await(t, at, "libvirt connected")
			if now := m.property(t, "MainPID"); now != pid {
				t.Errorf("the daemon was %s and is %s", pid, now)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.do(t)
			if d := cmp.Diff(before, alive()); d != "" {
				t.Error(d)
			}
		})
	}
}

// rules are all rules of the machine, without counters.
func rules(t *testing.T, m machine) []string {
	t.Helper()
	var all []string
	for _, args := range [][]string{
		{"iptables", "-S"}, {"iptables", "-t", "nat", "-S"}, {"nft", "--stateless", "list", "table", "bridge", "capsuled"},
	} {
		all = append(all, strings.Split(m.run(t, args...), "\n")...)
	}
	// In the order in which they were made, which is no matter.
	return append(all, slices.Sorted(strings.Lines(m.run(t, "nft", "list", "tables")+"\n"))...)
}

// TestWatchdogOfUnit: a daemon that answers no more is ended, leaves the stacks of its goroutines, and is started again.
func TestWatchdogOfUnit(t *testing.T) {
	m := bootInstalled(t, nil)
	m.override(t, "WatchdogSec=2\n")
	m.run(t, "systemctl", "start", "capsuled")
	pid, at := m.property(t, "MainPID"), m.cursor(t)
	m.run(t, "kill", "-STOP", pid)
	m.await(t, at, "Watchdog timeout", "SIGABRT: abort", "goroutine ", "Started capsuled.service")
	if now, n := m.property(t, "MainPID"), m.property(t, "NRestarts"); now == pid || n != "1" {
		t.Errorf("main process %s, was %s; %s restarts", now, pid, n)
	}
	if code := m.readyz(t); code != http.StatusOK {
		t.Errorf("readyz: %d", code)
	}
}

// TestStartWaitsForLibvirt: while libvirt is away the start goes on, past its deadline, and ends when libvirt comes.
func TestStartWaitsForLibvirt(t *testing.T) {
	m := bootInstalled(t, nil)
	units := []string{"libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"}
	for _, u := range units { // a condition, since to unmask reloads systemd, which then forgets the deadline's extension
		m.write(t, "/run/systemd/system/"+u+".d/test.conf", "[Unit]\nConditionPathExists=/run/libvirt-may-run\n")
	}
	m.override(t, "TimeoutStartSec=2\nWatchdogSec=2\n")
	m.run(t, append([]string{"systemctl", "stop"}, units...)...)
	at := m.cursor(t)
	m.run(t, "systemctl", "start", "--no-block", "capsuled")
	m.await(t, at, "not ready yet")
	pid := m.property(t, "MainPID")
	m.run(t, "sleep", "4") // the deadline is what has to pass; nothing announces that it did not strike
	if state, now := m.property(t, "ActiveState"), m.property(t, "MainPID"); state != "activating" || now != pid {
		t.Errorf("without libvirt: %s, main process %s, was %s", state, now, pid)
	}
	if code := m.readyz(t); code != http.StatusServiceUnavailable {
		t.Errorf("readyz without libvirt: %d", code)
	}
	m.run(t, "touch", "/run/libvirt-may-run")
	m.run(t, append([]string{"systemctl", "start"}, units...)...)
	m.run(t, "systemctl", "start", "capsuled") // joins the start that is under way
	if now, code := m.property(t, "MainPID"), m.readyz(t); now != pid || code != http.StatusOK {
		t.Errorf("with libvirt: main process %s, was %s; readyz %d", now, pid, code)
	}
}

// TestWrongConfiguration: the faults are in the journal with their lines.
func TestWrongConfiguration(t *testing.T) {
	m := bootInstalled(t, nil)
	m.write(t, "/etc/capsuled/capsuled.toml", "[quota]\ncpus = 0\n")
	at := m.cursor(t)
	if out, _, err := m.try("systemctl", "start", "capsuled"); err == nil {
		t.Fatalf("started: %s", out)
	}
	m.await(t, at, "/etc/capsuled/capsuled.toml:2: quota.cpus: is the number 0", "Failed with result 'exit-code'")
}

// TestExitStatus: what no restart heals is not tried again, everything else is, a panic's status included.
func TestExitStatus(t *testing.T) {
	m := bootInstalled(t, nil)
	for _, tt := range []struct{ status, want string }{
		{"64", "failed"}, {"78", "failed"}, {"1", "activating"}, {"2", "activating"},
	} {
		t.Run(tt.status, func(t *testing.T) {
			m.override(t, "RestartSec=1h\nExecStart=\nExecStart=/bin/sh -c 'exit "+tt.status+"'\n")
			if out, _, err := m.try("systemctl", "start", "capsuled"); err == nil {
				t.Fatalf("started: %s", out)
			}
			if state, status := m.property(t, "ActiveState"), m.property(t, "ExecMainStatus"); state != tt.want || status != tt.status {
				t.Errorf("%s with status %s; want %s with %s", state, status, tt.want, tt.status)
			}
			m.run(t, "systemctl", "stop", "capsuled")
		})
	}
}
