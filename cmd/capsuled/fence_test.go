package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) { testhost.Main(m) }

// ruleText is everything in the kernel's packet filter, without counters.
func ruleText(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "--stateless", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// flush opens the host of the tests again.
func flush(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	if text := ruleText(t); text != "" {
		t.Fatalf("not empty: %s", text)
	}
}

// wantClosed looks for the rules of both layers that take everything from taps of capsules and from the bridge. That they
// do so is shown by the packets of package firewall, and of the unit's test.
func wantClosed(t *testing.T, bridge string) {
	t.Helper()
	out, err := exec.Command("iptables", "-S").CombinedOutput()
	if err != nil {
		t.Fatalf("iptables: %v: %s", err, out)
	}
	text := ruleText(t) + string(out)
	for _, want := range []string{
		"table bridge capsuled {", `iifname "cap-*" drop`, `oifname "cap-*" drop`,
		"-A INPUT -j CAPSULED-INPUT", "-A CAPSULED-INPUT -i " + bridge + " ",
		"-A FORWARD -j CAPSULED-FORWARD", "-A CAPSULED-FORWARD -i " + bridge + " ", "-A CAPSULED-FORWARD -o " + bridge + " ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestFence(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	for _, tt := range []struct {
		name, config string // "" is no file at all
		bridge       string // that is closed
		code         int
		stderr       string
	}{
		{"a file", "[network]\nbridge = \"br7\"\nsubnet = \"10.7.0.0/20\"\n", "br7", 0, "closed: no capsule has a network"},
		{"a fault elsewhere", "[network]\nbridge = \"br7\"\n[quota]\ncpus = 0\n", "br7", exitConfig, "c.toml:4: quota.cpus: is the number 0"},
		{"a fault of the network", "[network]\nbridge = \"br7\"\nsubnet = \"10.0.0.0/8\"\n", "br7", exitConfig, "c.toml:3: network.subnet"},
		{"an address that contradicts", "[host]\npublic_ip = \"192.168.53.9\"\n", "capsbr0", exitConfig, "c.toml:2: host.public_ip"},
		{"no TOML", "[network\nbridge = \"br7\"\n", "capsbr0", exitConfig, ": not TOML: "},
		{"no file", "", "capsbr0", exitConfig, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flush(t)
			path := filepath.Join(t.TempDir(), "c.toml")
			if tt.config != "" {
				path = writeFile(t, "c.toml", tt.config, 0o644)
			}
			var stderr bytes.Buffer
			if code := fence(t.Context(), path, lock, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("code %d, want %d with %q: %s", code, tt.code, tt.stderr, stderr.String())
			}
			wantClosed(t, tt.bridge)
			before := ruleText(t)
			if code := fence(t.Context(), path, lock, &stderr); code != tt.code {
				t.Errorf("again: code %d", code)
			}
			if d := cmp.Diff(before, ruleText(t)); d != "" {
				t.Errorf("the second time changed: %s", d)
			}
		})
	}
	// The unit of the fence asks whether a daemon has run by whether this file has any text.
	if text, err := os.ReadFile(lock); err != nil || len(text) > 0 {
		t.Errorf("the lock says %q, %v", text, err)
	}
}

// TestFenceBesideDaemon changes nothing, because the daemon's rules have bindings.
func TestFenceBesideDaemon(t *testing.T) {
	flush(t)
	lock := filepath.Join(t.TempDir(), "lock")
	release, err := lockHost(lock)
	if err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, "c.toml", "", 0o644)
	var stderr bytes.Buffer
	if code := fence(t.Context(), config, lock, &stderr); code != exitRuns || !strings.Contains(stderr.String(), "nothing changed: another capsuled (process ") {
		t.Errorf("code %d: %s", code, stderr.String())
	}
	if text := ruleText(t); text != "" {
		t.Errorf("changed: %s", text)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if code := fence(t.Context(), config, lock, &stderr); code != 0 {
		t.Errorf("after the daemon: code %d: %s", code, stderr.String())
	}
	wantClosed(t, "capsbr0")
}

// TestFenceFails says so, with the code that has the unit try again.
func TestFenceFails(t *testing.T) {
	flush(t)
	config, lock := writeFile(t, "c.toml", "", 0o644), filepath.Join(t.TempDir(), "lock")
	t.Run("no programs", func(t *testing.T) {
		t.Setenv("PATH", "/nonexistent")
		var stderr bytes.Buffer
		if code := fence(t.Context(), config, lock, &stderr); code != 1 || !strings.Contains(stderr.String(), "capsuled: fence: firewall: ") {
			t.Errorf("code %d: %s", code, stderr.String())
		}
	})
	t.Run("rules that cannot be written", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho broken >&2\nexit 4\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		var stderr bytes.Buffer
		if code := fence(t.Context(), config, lock, &stderr); code != 1 || !strings.Contains(stderr.String(), "broken") {
			t.Errorf("code %d: %s", code, stderr.String())
		}
	})
}
