package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall/policy"
)

// serveStatic starts the resolver of a site.
func serveStatic(t *testing.T, s *site) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewResolver(s.chains, slog.New(slog.DiscardHandler)).Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// ask sends a question from a namespace to the gateway's port 53 and waits for the reply; "" if none comes in a
// time that is long for one machine.
func ask(t *testing.T, ns, network, name string, kind dnsmessage.Type) string {
	t.Helper()
	var conn net.Conn
	pinned(t, ns, func() (err error) {
		conn, err = net.DialTimeout(network, "192.168.53.1:53", time.Second)
		if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() || errors.Is(err, unix.ECONNREFUSED) {
			err = nil
		}
		return err
	})
	if conn == nil {
		return ""
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	b := question(t, name, kind)
	if network == "tcp4" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	if _, err := conn.Write(b); err != nil {
		return ""
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return ""
	}
	if network == "tcp4" {
		for n < 2 || n < 2+int(binary.BigEndian.Uint16(buf)) {
			more, err := conn.Read(buf[n:])
			if err != nil {
				return ""
			}
			n += more
		}
		return verdict(t, buf[2:n])
	}
	return verdict(t, buf[:n])
}

// checksums turns off on an interface that the checksums of what it sends are left to the other end.
func checksums(t *testing.T, ns, dev string) {
	t.Helper()
	const setTxCsum = 0x17 // ETHTOOL_STXCSUM
	pinned(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := [2]uint32{setTxCsum, 0}
		ifr := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(ifr.name[:], dev)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return errno
		}
		return nil
	})
}

// listeners listen where the host's own resolver would, by both protocols, and tells who asked.
type listeners struct {
	s   *site
	tcp chan string
}

func openListeners(t *testing.T, s *site) *listeners {
	t.Helper()
	own := listen(t, "", "0.0.0.0:53")
	h := &listeners{s, make(chan string, 100)}
	go func() {
		for {
			c, err := own.Accept()
			if err != nil {
				return
			}
			h.tcp <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	return h
}

// heard says whether a question came, and forgets it.
func (h *listeners) heard() bool {
	heard := h.s.dns.has("evil") || h.s.dns.has("data") || len(h.tcp) > 0
	h.s.dns.came.Reset()
	for len(h.tcp) > 0 {
		<-h.tcp
	}
	return heard
}

// A binding with static DNS is answered at port 53 by the static resolver, by UDP and TCP, with checksums that are
// right on the wire and with those that are left to the interface; whatever is flushed, the host's own resolver
// never hears a word. One with forwarding DNS gets to that one.
func TestStaticResolver(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	host := openListeners(t, s)
	serveStatic(t, s)
	all := []Binding{under(s.one, narrow.Name), s.two}
	for _, offload := range []bool{true, false} {
		spoils := []string{"", "iptables -F"}
		if offload {
			spoils = append(spoils, "iptables -t raw -F CAPSULED-ADMIT", "nft delete table bridge capsuled", "nft flush ruleset")
		} else {
			for ns, dev := range map[string]string{"one": "eth0", "": "capsbr0"} {
				checksums(t, ns, dev)
			}
		}
		for _, spoil := range spoils {
			for _, network := range []string{"udp4", "tcp4"} {
				testStaticResolver(t, s, host, all, spoil, network)
			}
		}
	}
	apply(t, t.Context(), s.chains, all)
	if got := ask(t, "two", "udp4", "for.the.host.", dnsmessage.TypeA); got != "" {
		t.Errorf("a binding with forwarding DNS: %q", got)
	}
	s.dns.await("host")
	if n := testutil.ToFloat64(s.chains.metrics.questions.WithLabelValues("unknown")); n < 10 {
		t.Errorf("%v unknown names counted", n)
	}
}

func testStaticResolver(t *testing.T, s *site, host *listeners, all []Binding, spoil, network string) {
	t.Helper()
	apply(t, t.Context(), s.chains, all)
	s.ready(t)
	if spoil != "" {
		run(t, t.Context(), strings.Fields(spoil)...)
	}
	for name, want := range map[string]string{"data.example.org.": "Success 198.51.100.2/60", "secret.evil.example.": "NameError"} {
		if strings.HasPrefix(spoil, "nft") {
			want = "" // then it is closed, or nothing leads to the resolver
		}
		if got := ask(t, "one", network, name, dnsmessage.TypeA); got != want {
			t.Errorf("%q, %s, %s: %q, want %q", spoil, network, name, got, want)
		}
	}
	// Without any rule nothing stands between: it shows that the test can hear.
	if heard := host.heard(); heard != (spoil == "nft flush ruleset") {
		t.Fatalf("after %q the host's own resolver is asked by %s: %v", spoil, network, heard)
	}
}

// The resolver of the C library and that of Go get the address from a policy's table.
func TestClientsOfStaticResolver(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	serveStatic(t, s)
	apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
	s.ready(t)
	if err := os.MkdirAll("/etc/netns/one", 0o755); err != nil { // shown as /etc/resolv.conf by ip-netns(8)
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll("/etc/netns/one") })
	if err := os.WriteFile("/etc/netns/one/resolv.conf", []byte("nameserver 192.168.53.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := run(t, t.Context(), "ip", "netns", "exec", "one", "getent", "ahosts", "data.example.org")
	if !strings.HasPrefix(got, "198.51.100.2") {
		t.Errorf("getent: %q", got)
	}
	r := net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (conn net.Conn, err error) {
		pinned(t, "one", func() error { conn, err = net.Dial(network, "192.168.53.1:53"); return nil })
		return conn, err
	}}
	addrs, err := r.LookupNetIP(t.Context(), "ip", "data.example.org")
	if err != nil || len(addrs) != 1 || addrs[0].Unmap() != worldAddr {
		t.Errorf("Go: %v, %v", addrs, err)
	}
	if _, err = r.LookupNetIP(t.Context(), "ip", "secret.evil.example"); err == nil || !err.(*net.DNSError).IsNotFound {
		t.Errorf("an unlisted name: %v", err)
	}
	// New names are answered at once, and no connection is cut for them.
	p := narrow
	p.Hosts = addressesOf("new.example.org", "192.0.2.77")
	if err := s.chains.SetPolicies(t.Context(), []policy.Policy{maintenance, p}); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, "one", "udp4", "new.example.org.", dnsmessage.TypeA); got != "Success 192.0.2.77/60" {
		t.Errorf("a new name: %q", got)
	}
}
