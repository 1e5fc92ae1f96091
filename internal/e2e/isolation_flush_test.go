package e2e

import (
	"context"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/capsuled/capsuled/internal/rig"
)

// silence wants nothing at all to have passed the first capsule's tap in either direction, marked or not, since the
// last volley began.
func (s *siege) silence(t *testing.T) {
	t.Helper()
	tap := domain(s.a)
	_, text := s.lease(tap)
	mac, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("row 01: not one frame gets in", func(t *testing.T) {
		for _, p := range s.capture.all() {
			if p.where == tap+" out" {
				t.Errorf("the guest was sent %x", p.data)
			}
		}
	})
	t.Run("row 03: not one frame gets out", func(t *testing.T) {
		for _, p := range s.capture.all() {
			if p.where != tap+" in" && p.where != "service" && len(p.data) >= 12 && slices.Equal(p.data[6:12], mac) {
				t.Errorf("at %s there is a frame of the guest: %x", p.where, p.data)
			}
		}
	})
}

// flushed takes one layer away while the daemon cannot put it back, attacks, and lets the daemon mend it.
func (s *siege) flushed(t *testing.T, name string, flush func(*testing.T)) {
	t.Helper()
	pid, f := s.Pid(), s.field()
	kill(t, pid, syscall.SIGSTOP)
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	flush(t)
	s.run(t, name, f, attacks, sent)
	kill(t, pid, syscall.SIGCONT)
	s.proved(t)
}

// mended takes one layer away after the other from under the daemon, which puts it back; and then both (row 10). A
// flood, which the guest began when it still arrived in the outside world, gets no datagram through a single layer.
// For as long as both are gone nothing holds it: no more is wanted then than that they come back.
func (s *siege) mended(t *testing.T) {
	t.Run("row 10: rules that others remove", func(t *testing.T) {
		s.capture.forget()
		for _, flush := range []func(*testing.T){flushIP, flushBridge} {
			flush(t)
			s.proved(t)
		}
		s.count++
		s.settle(t)
		for where, n := range s.capture.places(floodMark) {
			if where != domain(s.a)+" in" && where != "capsbr0 in" {
				t.Errorf("%d datagrams got to %s", n, where)
			} else {
				t.Logf("%d datagrams at %s", n, where)
			}
		}
		if s.capture.places(floodMark)[domain(s.a)+" in"] == 0 {
			t.Error("there was no flood")
		}
		s.capture.forget()
		flushIP(t)
		flushBridge(t)
		s.proved(t)
		t.Logf("with both layers gone: %v", s.capture.places(floodMark))
	})
	t.Run("row 11: rules where nobody looks", func(t *testing.T) {
		if out, err := s.Ctl(t.Context(), "doctor"); strings.Contains(out, "legacy") {
			t.Fatalf("the doctor knows of legacy rules before there are any: %v: %s", err, out)
		}
		must(command(t, "iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT"))(t)
		defer func() {
			must(command(t, "iptables-legacy", "-D", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT"))(t)
		}()
		if out, err := s.Ctl(t.Context(), "doctor"); err == nil || !strings.Contains(out, "legacy") {
			t.Errorf("the doctor does not speak of legacy rules: %v: %s", err, out)
		}
	})
}

// proved waits until the first capsule is proved safe.
func (s *siege) proved(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		_, err := s.Ctl(ctx, "prove", s.a)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.still(t, "secure")
}

// flushIP takes away every rule of iptables, of whoever it is.
func flushIP(t *testing.T) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"raw", "mangle", "nat", "filter"} {
			must(command(t, program, "-w", "-t", table, "-F"))(t)
		}
		for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
			must(command(t, program, "-w", "-P", chain, "ACCEPT"))(t)
		}
	}
}

// flushBridge takes away every rule of the bridge layer.
func flushBridge(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(must(command(t, "nft", "list", "tables"))(t)) {
		if family := strings.Fields(line); len(family) == 3 && (family[1] == "bridge" || family[1] == "netdev") {
			must(command(t, "nft", "delete", "table", family[1], family[2]))(t)
		}
	}
}
