package systemd_test

import (
	"strings"
	"testing"
)

// TestReloadOfUnit: a reload is told in the journal and the status line, and the daemon goes on as it is.
func TestReloadOfUnit(t *testing.T) {
	m := bootInstalled(t, nil)
	m.run(t, "systemctl", "start", "capsuled")
	pid := m.property(t, "MainPID")
	for _, tt := range []struct{ name, policy, log, status string }{
		{"good", "comment = \"ours\"\nsecure = true\ndhcp = true\n", "policies reloaded", "serving; policies reloaded"},
		{"faulty", "secure = true\nport = 1\n", "policies not reloaded", "/etc/capsuled/policies/secure.toml:2: "},
		{"good again", "secure = true\n", "policies reloaded", "serving; policies reloaded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.write(t, "/etc/capsuled/policies/secure.toml", tt.policy)
			at := m.cursor(t)
			m.run(t, "systemctl", "reload", "capsuled")
			m.await(t, at, tt.log)
			poll(t, "status text", func() (string, bool) {
				text := m.property(t, "StatusText")
				return text, strings.Contains(text, tt.status)
			})
			poll(t, "state", func() (string, bool) {
				text := m.property(t, "ActiveState")
				return text, text == "active"
			})
			if now := m.property(t, "MainPID"); now != pid {
				t.Errorf("main process %s, was %s", now, pid)
			}
		})
	}
}
