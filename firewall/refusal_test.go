package firewall

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
		for name, b := range map[string]Binding{"open": {Tap: all[1].Tap, MAC: all[1].MAC, IP: all[1].IP, Policy: maintenance.Name},
			"close": all[0].closed(), "move": moved, "new": all[2]} {
			t.Run(program+" "+name, func(t *testing.T) {
				c := fresh(t, o)
				start := []Binding{all[0], all[1].closed()}
				apply(t, t.Context(), c, start)
				loose := rulesOf(kernel(t, t.Context()))
				switch program { // alone these are only needed where the small change fails
				case "iptables-save":
					run(t, t.Context(), "iptables", "-F", "INPUT")
				case "nft":
					run(t, t.Context(), "nft", "delete", "table", "bridge", "capsuled")
				}
				mend := breakProgram(t, program)
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

// The iptables-restore that stays may end at any time: the next change starts another.
func TestRestorerEnds(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 3)
	apply(t, t.Context(), c, all)
	for i, end := range []func(){
		func() {},
		func() { // killed, and its end of the pipes closed before we look
			if err := c.restore.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c.restore.out); err != nil {
				t.Fatal(err)
			}
		},
		c.Close,
	} {
		end()
		next := all[0]
		if i%2 == 0 {
			next = next.closed()
		}
		if err := c.Put(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		wantVerified(t, t.Context(), c)
	}
}

// A small change that takes too long is given up, and what it left half done is closed.
func TestRestorerIsGivenUp(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 2)
	apply(t, t.Context(), c, all[:1])
	if err := c.Put(t.Context(), all[0].closed()); err != nil {
		t.Fatal(err)
	}
	if err := c.restore.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error)
	go func() { started <- c.Put(ctx, all[0]) }()
	cancel()
	if err := <-started; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrUnavailable and context.Canceled", err)
	}
	if c.want.bindings[all[0].Tap].Policy != Closed {
		t.Error("what should be is looser than what was")
	}
	apply(t, t.Context(), c, all)
}

// Put of what is there already mends the bridge layer's elements of its tap.
func TestPutAgainMendsItsElements(t *testing.T) {
	o := options("192.168.53.0/24")
	all := bindings(o, 6)
	for _, spoil := range [][]string{
		{"nft", "flush", "set", "bridge", "capsuled", "addrs"},
		{"nft", "delete", "table", "bridge", "capsuled"},
		{"iptables", "-D", "FORWARD", "-j", "CAPSULED-FORWARD"},
	} {
		c := fresh(t, o)
		t.Cleanup(c.Close)
		apply(t, t.Context(), c, all[:1])
		run(t, t.Context(), spoil...)
		if err := c.Put(t.Context(), all[0]); err != nil {
			t.Fatal(err)
		}
		wantVerified(t, t.Context(), c)
	}
}
