package testhost_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) { testhost.Main(m, testhost.WithLibvirt()) }

func TestLibvirtAnswers(t *testing.T) {
	virsh(t, "list", "--all")
}

func TestLibvirtdStopsAndStarts(t *testing.T) {
	for name, end := range map[string]func(testing.TB){"stop": testhost.StopLibvirtd, "kill": testhost.KillLibvirtd} {
		t.Run(name, func(t *testing.T) {
			end(t)
			if out, err := exec.Command("virsh", "-c", "qemu:///system", "list").CombinedOutput(); err == nil {
				t.Fatalf("libvirtd answers after %s: %s", name, out)
			}
			testhost.StartLibvirtd(t)
			virsh(t, "list")
		})
	}
}

func TestNoKVM(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); !os.IsNotExist(err) {
		t.Fatalf("/dev/kvm: %v", err)
	}
}

func TestLoopFS(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, kind, 320<<20)
			out, err := exec.Command("stat", "-f", "-c", "%T", dir).Output()
			t.Logf("%s %v", out, err)
		})
	}
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return string(out)
}

// A fuzz worker, or a daemon that a test kills, is this binary started again: it must not get a host of its own.
func TestBinaryStartedAgainStaysHere(t *testing.T) {
	const marker = "TESTHOST_PRINT_NAMESPACE"
	here, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(marker) != "" {
		t.Log(here)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), marker+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), here) {
		t.Fatalf("%v: not in %s: %s", err, here, out)
	}
}
