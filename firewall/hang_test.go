package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hangProgram puts a program that hangs in front of the real one. When the function it returns is called, those that
// hang go on as the real one.
func hangProgram(t *testing.T, name string) (goOn func()) {
	t.Helper()
	real, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	flag := filepath.Join(dir, "hang")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >>%s/began\nwhile [ -e %s ]; do sleep 0.02; done\nexec %s \"$@\"\n", dir, flag, real)
	for path, text := range map[string]string{flag: "", filepath.Join(dir, name): script} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir+":"+path)
	t.Cleanup(func() { _ = os.Remove(flag) }) // nothing hangs on
	return func() {
		if err := os.Remove(flag); err != nil {
			t.Error(err)
		}
	}
}

// hangs says whether the program that hangs was called.
func hangs(name string) bool {
	path, err := exec.LookPath(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(path), "began"))
	return err == nil
}

// While a program hangs in one call, a tap is closed by its link at once; who waits gives up when his context ends, and
// is told the truth; and what the call that hung opens later leaves that tap down.
func TestClosedWhileAProgramHangs(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 2)
	for _, b := range all {
		addTap(t, b.Tap)
	}
	apply(t, t.Context(), c, all[:1])
	goOn := hangProgram(t, "iptables-restore")
	applied, put := make(chan error, 1), make(chan error, 1)
	go func() { applied <- c.Apply(t.Context(), all) }()
	eventually(t, "iptables-restore hangs", func() bool { return hangs("iptables-restore") })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { put <- c.Put(ctx, all[0].closed()) }()
	eventually(t, "the link is down", func() bool { return linkOf(t, c, all[0].Tap) == LinkDown })
	select {
	case err := <-applied:
		t.Fatalf("nothing hung: %v", err)
	default:
	}
	cancel()
	err := <-put
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "another change is under way") ||
		!strings.Contains(err.Error(), "the link of "+all[0].Tap+" is down all the same") {
		t.Errorf("put: %v", err)
	}
	goOn()
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	wantLink(t, c, all[0].Tap, LinkDown)
	wantLink(t, c, all[1].Tap, LinkUp)
	wantNoticed(t, t.Context(), c, all[0].Tap+": link down, should be up")
	apply(t, t.Context(), c, []Binding{all[0].closed(), all[1]})
	apply(t, t.Context(), c, all)
	wantLink(t, c, all[0].Tap, LinkUp)
}

// A program that hangs for ever keeps nobody for ever, whatever his context says; and all is well when it does not.
func TestHangingProgramIsGivenUp(t *testing.T) {
	o := options("192.168.53.0/24")
	for _, program := range []string{"iptables-restore", "nft", "iptables-save"} {
		t.Run(program, func(t *testing.T) {
			c := fresh(t, o)
			t.Cleanup(c.Close)
			all := bindings(o, 2)
			addTap(t, all[0].Tap)
			apply(t, t.Context(), c, all[:1])
			run(t, t.Context(), "nft", "flush", "ruleset") // so that every program has something to do
			goOn := hangProgram(t, program)
			if err := c.Put(context.Background(), all[0].closed()); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("put: got %v, want ErrUnavailable and context.DeadlineExceeded", err)
			}
			wantLink(t, c, all[0].Tap, LinkDown)
			goOn()
			apply(t, t.Context(), c, all)
		})
	}
}

// An iptables-restore that stays and hangs is ended, and another does what it should have.
func TestRestorerThatHangsIsReplaced(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 1)
	apply(t, t.Context(), c, all)
	if err := c.Put(t.Context(), all[0].closed()); err != nil {
		t.Fatal(err)
	}
	old := c.restore.cmd.Process
	if err := old.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	wantVerified(t, t.Context(), c)
	eventually(t, "the one that hung has ended", func() bool {
		return errors.Is(old.Signal(syscall.Signal(0)), os.ErrProcessDone) || errors.Is(unix.Kill(old.Pid, 0), unix.ESRCH)
	})
	if err := c.Put(t.Context(), all[0].closed()); err != nil {
		t.Fatal(err)
	}
	if c.restore.cmd == nil || c.restore.cmd.Process.Pid == old.Pid {
		t.Error("none was started anew")
	}
	wantVerified(t, t.Context(), c)
}
