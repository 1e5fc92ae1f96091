package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
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

// frozen does something while the daemon can put nothing back, and lets it mend then what it finds.
func (s *siege) frozen(t *testing.T, do func(*field)) {
	t.Helper()
	pid, f := s.Pid(), s.field()
	kill(t, pid, syscall.SIGSTOP)
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	do(f)
	kill(t, pid, syscall.SIGCONT)
	s.proved(t)
}

// flushed takes one layer of rules away and attacks. The link is up, that the other one is judged alone.
func (s *siege) flushed(t *testing.T, name string, flush func(*testing.T)) {
	t.Helper()
	s.frozen(t, func(f *field) {
		flush(t)
		s.linkUp(t)
		s.run(t, name, f, attacks, sent)
	})
}

// bare takes every rule away and attacks: the link is all that is left, and is down.
func (s *siege) bare(t *testing.T, name string) {
	t.Helper()
	s.frozen(t, func(f *field) {
		flushIP(t)
		flushBridge(t)
		s.runDown(t, name, f)
	})
}

// linkUp takes the first capsule's tap up, and waits until its port passes frames on.
func (s *siege) linkUp(t *testing.T) {
	t.Helper()
	must(command(t, "ip", "link", "set", domain(s.a), "up"))(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if port := must(command(t, "bridge", "link", "show", "dev", domain(s.a)))(t); !strings.Contains(port, "state forwarding") {
			return fmt.Errorf("the port: %s", port)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// runDown attacks while the link is down. Nothing is seen on the tap then, not even what the guest sends: the kernel
// counts what it did not take (tun_get_user), and what it took at all has to be as much as the guest has given.
func (s *siege) runDown(t *testing.T, name string, f *field) {
	t.Helper()
	least := 0
	for _, a := range attacks {
		if !a.stack && a.from == "" {
			least++
		}
	}
	if up := must(command(t, "ip", "link", "show", domain(s.a), "up"))(t); up != "" {
		t.Fatalf("%s: the link is up: %s", name, up)
	}
	given, taken := s.given(t), s.dropped(t)
	after := -1
	s.run(t, name, f, attacks, func(attack, seen) bool {
		if after < 0 { // every probe has ended by now
			after = s.given(t)
		}
		return s.dropped(t)-taken >= after-given
	})
	if after-given < least {
		t.Errorf("%s: the guest has sent %d frames, and should at least %d", name, after-given, least)
	}
}

// given counts the frames that the first capsule's guest has sent.
func (s *siege) given(t *testing.T) int {
	t.Helper()
	return number(t, must(guestExec(t, domain(s.a), "", "/bin/busybox", "cat", "/sys/class/net/eth0/statistics/tx_packets"))(t))
}

// dropped counts the frames of the guest that its tap did not take.
func (s *siege) dropped(t *testing.T) int {
	t.Helper()
	return number(t, must(command(t, "cat", "/sys/class/net/"+domain(s.a)+"/statistics/rx_dropped"))(t))
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// floods waits until the flood, which the guest began when it still arrived in the outside world, has come to its tap
// again, which is down.
func (s *siege) floods(t *testing.T) {
	t.Helper()
	const some = 20
	before := s.dropped(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if n := s.dropped(t) - before; n < some {
			return fmt.Errorf("there is no flood: the tap dropped %d frames", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// mended takes one layer after the other from under the daemon, which puts it back; and then both, so that the link is
// left (row 10). A flood, which the guest began when it still arrived in the outside world, gets no datagram through.
func (s *siege) mended(t *testing.T) {
	t.Run("row 10: rules that others remove", func(t *testing.T) {
		s.capture.forget()
		for _, flush := range [][]func(*testing.T){{flushIP}, {flushBridge}, {flushIP, flushBridge}} {
			for _, layer := range flush {
				layer(t)
			}
			s.floods(t)
			s.proved(t)
		}
		s.frozen(t, func(*field) { // and for as long as somebody likes
			flushIP(t)
			flushBridge(t)
			s.floods(t)
		})
		s.count++
		s.settle(t)
		for where, n := range s.capture.places(floodMark) {
			t.Errorf("%d datagrams got to %s", n, where)
		}
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
