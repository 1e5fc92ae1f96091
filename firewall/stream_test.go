package firewall

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/testhost"
)

// greet answers every connection with its name and the address it sees, and then echoes.
func greet(t *testing.T, ns, address, name string) {
	t.Helper()
	l := listen(t, ns, address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed by the test
			}
			_, _ = conn.Write([]byte(name + " " + conn.RemoteAddr().(*net.TCPAddr).IP.String() + "\n"))
			t.Cleanup(func() { conn.Close() })
		}
	}()
}

// wantGreeting connects and compares the first line.
func wantGreeting(t *testing.T, ns, to, want string) net.Conn {
	t.Helper()
	conn := dial(t, ns, to)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		t.Fatalf("%s from %q: %q, %v; want %q", to, ns, line, err, want)
	}
	return conn
}

func TestForwardAndNAT(t *testing.T) {
	for _, public := range []string{"", testhost.HostAddr} {
		t.Run("public "+public, func(t *testing.T) { testForwardAndNAT(t, public) })
	}
}

func testForwardAndNAT(t *testing.T, public string) {
	s := newSite(t)
	if public != "" {
		s.opt.PublicIP = netip.MustParseAddr(public)
		var err error
		if s.chains, err = New(s.opt); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	if err := s.chains.GuardBridge(t.Context()); err != nil {
		t.Fatal(err)
	}
	greet(t, "one", "0.0.0.0:22", "one")
	greet(t, "two", "0.0.0.0:22", "two")
	greet(t, "world", "0.0.0.0:80", "world")
	greet(t, "", "127.0.0.1:16000", "host")
	wantGreeting(t, "world", testhost.HostAddr+":16000", "one "+testhost.WorldAddr)
	wantGreeting(t, "world", testhost.HostAddr+":16001", "two "+testhost.WorldAddr)
	wantGreeting(t, "", testhost.HostAddr+":16001", "two "+testhost.HostAddr)
	wantGreeting(t, "one", testhost.WorldAddr+":80", "world "+testhost.HostAddr)
	wantGreeting(t, "", "127.0.0.1:16000", "host 127.0.0.1") // loopback is never forwarded
}

// Closing a binding, moving it and dropping it cut its connections; those of others live on.
func TestTighteningCutsConnections(t *testing.T) {
	for name, tighten := range map[string]func(*site) error{
		"put closed": func(s *site) error { return s.chains.Put(t.Context(), s.one.closed()) },
		"put moved": func(s *site) error {
			b := s.one
			b.IP = netip.MustParseAddr("192.168.53.77")
			return s.chains.Put(t.Context(), b)
		},
		"put port": func(s *site) error { b := s.one; b.SSHPort = 16500; return s.chains.Put(t.Context(), b) },
		"drop":     func(s *site) error { return s.chains.Drop(t.Context(), s.one.Tap) },
		// The small change comes as far as the bridge layer; the whole one after it finds nothing there any more.
		"drop, its program dead": func(s *site) error { return killed(s, func() error { return s.chains.Drop(t.Context(), s.one.Tap) }) },
		"close, its program dead": func(s *site) error {
			return killed(s, func() error { return s.chains.Put(t.Context(), s.one.closed()) })
		},
		"apply closed": func(s *site) error { return s.chains.Apply(t.Context(), []Binding{s.one.closed(), s.two}) },
		"apply none":   func(s *site) error { return s.chains.Apply(t.Context(), []Binding{s.two}) },
		"apply anew": func(s *site) error { // by a daemon that was started meanwhile
			c, err := New(s.opt)
			if err != nil {
				return err
			}
			s.chains = c
			return c.Apply(t.Context(), []Binding{s.one.closed(), s.two})
		},
		"apply another port anew": func(s *site) error {
			c, err := New(s.opt)
			if err != nil {
				return err
			}
			s.chains = c
			b := s.one
			b.SSHPort = 16500
			return c.Apply(t.Context(), []Binding{b, s.two})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
			greet(t, "one", "0.0.0.0:22", "one")
			greet(t, "two", "0.0.0.0:22", "two")
			greet(t, "world", "0.0.0.0:80", "world")
			wantGreeting(t, "world", testhost.HostAddr+":16000", "one "+testhost.WorldAddr)
			wantGreeting(t, "one", testhost.WorldAddr+":80", "world "+testhost.HostAddr)
			wantGreeting(t, "world", testhost.HostAddr+":16001", "two "+testhost.WorldAddr)
			mine, others := flows(t, s, s.one), flows(t, s, s.two)
			if mine < 2 || others == 0 {
				t.Fatalf("%d and %d entries: nothing to cut", mine, others)
			}
			if err := tighten(s); err != nil {
				t.Fatal(err)
			}
			wantVerified(t, t.Context(), s.chains)
			if n := flows(t, s, s.one); n != 0 {
				t.Errorf("%d entries are left", n)
			}
			if n := flows(t, s, s.two); n < others {
				t.Errorf("%d of another's %d entries are left", n, others)
			}
		})
	}
}

// killed changes something when the program that rules are changed with has been ended.
func killed(s *site, change func() error) error {
	if err := s.chains.Put(context.Background(), s.two); err != nil { // it is started when it is needed
		return err
	}
	if s.chains.restore.cmd == nil {
		return errors.New("there is no program")
	}
	if err := s.chains.restore.cmd.Process.Kill(); err != nil {
		return err
	}
	return change()
}

func TestOpeningAgainWorks(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one.closed(), s.two})
	greet(t, "one", "0.0.0.0:22", "one")
	if err := s.chains.Put(t.Context(), s.one); err != nil {
		t.Fatal(err)
	}
	wantGreeting(t, "world", testhost.HostAddr+":16000", "one "+testhost.WorldAddr)
}

func TestGuardBridge(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	apply(t, t.Context(), c, nil)
	if err := c.GuardBridge(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("without a bridge: %v, want ErrUnavailable", err)
	}
	run(t, t.Context(), "ip", "link", "add", "capsbr0", "type", "bridge")
	t.Cleanup(func() { run(t, bare(t), "ip", "link", "del", "capsbr0") })
	sysctl(t, "net/ipv4/ip_forward", "0")
	sysctl(t, "net/ipv6/conf/capsbr0/disable_ipv6", "0")
	for range 2 {
		if err := c.GuardBridge(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/capsbr0/disable_ipv6": "1", "net/ipv4/conf/capsbr0/rp_filter": "1"} {
			if got, err := os.ReadFile(filepath.Join(sysctlRoot, name)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, %v; want %s", name, got, err, want)
			}
		}
	}
	wantVerified(t, t.Context(), c)
	sysctl(t, "net/ipv6/conf/capsbr0/disable_ipv6", "0")
	wantNoticed(t, t.Context(), c, "disable_ipv6")
}
