package firewall

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// breakProgram puts a program that refuses in front of the real one; the function it returns mends it.
func breakProgram(t *testing.T, name string) (mend func()) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho resource problem >&2\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir+":"+path)
	return func() { t.Setenv("PATH", path) }
}

// When one layer refuses, nothing may be looser than before, and the next change makes up for it.
func TestRefusalLeavesNothingLooser(t *testing.T) {
	o := options("192.168.53.0/24")
	all := bindings(o, 3)
	moved := all[0]
	moved.IP = bindings(o, 9)[8].IP
	for _, program := range []string{"iptables-restore", "nft", "iptables-save"} {
		for name, b := range map[string]Binding{"open": {Tap: all[1].Tap, MAC: all[1].MAC, IP: all[1].IP, Policy: Maintenance},
			"close": all[0].closed(), "move": moved, "new": all[2]} {
			t.Run(program+" "+name, func(t *testing.T) {
				c := fresh(t, o)
				start := []Binding{all[0], all[1].closed()}
				apply(t, t.Context(), c, start)
				loose := rulesOf(kernel(t, t.Context()))
				mend := breakProgram(t, program)
				if program == "iptables-save" { // alone it is only needed where the small change fails
					run(t, t.Context(), "iptables", "-F", "INPUT")
				}
				if err := c.Put(t.Context(), b); !errors.Is(err, ErrUnavailable) {
					t.Fatalf("got %v, want ErrUnavailable", err)
				}
				mend()
				for _, r := range rulesOf(kernel(t, t.Context())) {
					if strings.Contains(r, "ACCEPT") && !slices.Contains(loose, r) || strings.Contains(r, b.IP.String()) && strings.Contains(r, "DNAT") && !slices.Contains(loose, r) {
						t.Errorf("looser than before: %s", r)
					}
				}
				if err := c.Put(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				wantVerified(t, t.Context(), c)
				apply(t, t.Context(), c, start)
			})
		}
	}
}

func rulesOf(text string) []string { return strings.Split(text, "\n") }
