package systemd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
	binDir + "/capsuled": "/usr/bin/capsuled",
	"capsuled.service":   "/usr/lib/systemd/system/capsuled.service",
	"capsuled.sysusers":  "/usr/lib/sysusers.d/capsuled.conf",
}

func installBinds(t *testing.T) []string {
	t.Helper()
	var binds []string
	for from, to := range installed {
		abs, err := filepath.Abs(from)
		if err != nil {
			t.Fatal(err)
		}
		binds = append(binds, abs+":"+to)
	}
	return binds
}

func TestService(t *testing.T) {
	m := bootMachine(t, installBinds(t)...)
	t.Log(m.run(t, "systemctl", "list-units", "--failed"))
	m.run(t, "systemd-sysusers")
	t.Log(m.run(t, "systemd-analyze", "verify", "capsuled.service"))
	out, err := m.try("systemctl", "start", "capsuled")
	t.Log(out, err)
	out, _ = m.try("systemctl", "status", "--no-pager", "-l", "capsuled", "libvirtd")
	t.Log(out)
	out, _ = m.try("systemd-analyze", "security", "--no-pager", "capsuled.service")
	t.Log(out)
	out, _ = m.try("journalctl", "-b", "--no-pager", "-p", "warning")
	t.Log(out)
}
