package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
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

// question is a message that asks for one name.
func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verdict is a reply in a few words.
func verdict(t testing.TB, b []byte) string {
	t.Helper()
	if b == nil {
		return "none"
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if !m.Response || m.RecursionAvailable || m.ID != 0x1234 {
		t.Errorf("reply %v", m.Header)
	}
	text := strings.TrimPrefix(m.RCode.String(), "RCode")
	for _, a := range m.Answers {
		text += fmt.Sprintf(" %v/%d", netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A), a.Header.TTL)
	}
	if m.Truncated {
		text += " truncated"
	}
	return text
}

func TestReply(t *testing.T) {
	p := policy.Policy{Name: "p", DNS: policy.Static, Hosts: addressesOf("data.example.org", "192.0.2.10", "192.0.2.11")}
	for i := range 40 {
		p.Hosts["many.example"] = append(p.Hosts["many.example"], netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	p.Hosts["empty.example"] = nil
	raw := func(change func(m *dnsmessage.Message)) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 0x1234}}
		if err := m.Unpack(question(t, "data.example.org.", dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
		change(&m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name   string
		ask    []byte
		policy policy.Policy
		want   string
	}{
		{"listed", question(t, "data.example.org.", dnsmessage.TypeA), p, "Success 192.0.2.10/60 192.0.2.11/60"},
		{"in other letters", question(t, "dAtA.ExamplE.org.", dnsmessage.TypeA), p, "Success 192.0.2.10/60 192.0.2.11/60"},
		{"all types", question(t, "data.example.org.", dnsmessage.TypeALL), p, "Success 192.0.2.10/60 192.0.2.11/60"},
		{"IPv6", question(t, "data.example.org.", dnsmessage.TypeAAAA), p, "Success"},
		{"text", question(t, "data.example.org.", dnsmessage.TypeTXT), p, "Success"},
		{"without an address", question(t, "empty.example.", dnsmessage.TypeA), p, "Success"},
		{"above a listed name", question(t, "example.org.", dnsmessage.TypeA), p, "Success"},
		{"not listed", question(t, "secret.evil.example.", dnsmessage.TypeA), p, "NameError"},
		{"below a listed name", question(t, "secret.data.example.org.", dnsmessage.TypeA), p, "NameError"},
		{"ends like a listed name", question(t, "xdata.example.org.", dnsmessage.TypeA), p, "NameError"},
		{"the root", question(t, ".", dnsmessage.TypeNS), p, "NameError"},
		{"too many addresses", question(t, "many.example.", dnsmessage.TypeA), p, "Success truncated"},
		{"no DNS", question(t, "data.example.org.", dnsmessage.TypeA), policy.Policy{Hosts: p.Hosts}, "Refused"},
		{"forwarding DNS", question(t, "data.example.org.", dnsmessage.TypeA), policy.Policy{Hosts: p.Hosts, DNS: policy.Forward}, "Refused"},
		{"closed", question(t, "data.example.org.", dnsmessage.TypeA), policy.Policy{}, "Refused"},
		{"another class", raw(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), p, "Refused"},
		{"two questions", raw(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), p, "FormatError"},
		{"no question", raw(func(m *dnsmessage.Message) { m.Questions = nil }), p, "FormatError"},
		{"an update", raw(func(m *dnsmessage.Message) { m.OpCode = 5 }), p, "NotImplemented"},
		{"a response", raw(func(m *dnsmessage.Message) { m.Response = true }), p, "none"},
		{"half a header", []byte{0x12, 0x34, 0}, p, "none"},
		{"nothing", nil, p, "none"},
		{"cut short", question(t, "data.example.org.", dnsmessage.TypeA)[:20], p, "FormatError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := reply(c.ask, c.policy, questionMax)
			if got := verdict(t, b); got != c.want || len(b) > questionMax {
				t.Errorf("got %q (%d bytes), want %q", got, len(b), c.want)
			}
		})
	}
	b, _ := reply(question(t, "many.example.", dnsmessage.TypeA), p, answerMax)
	if got := verdict(t, b); strings.Count(got, "/60") != 40 {
		t.Errorf("by TCP: %q", got)
	}
}

func FuzzReply(f *testing.F) {
	f.Add(question(f, "data.example.org.", dnsmessage.TypeA))
	f.Add(question(f, ".", dnsmessage.TypeALL))
	p := policy.Policy{DNS: policy.Static, Hosts: addressesOf("data.example.org", "192.0.2.10")}
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, _ := reply(b, p, questionMax)
		if len(answer) > len(b)+32 {
			t.Errorf("%d bytes to %d", len(answer), len(b))
		}
		if again, _ := reply(answer, p, questionMax); again != nil {
			t.Error("it answers itself")
		}
	})
}

func TestQuota(t *testing.T) {
	q := quota{of: map[netip.Addr]*allowance{}}
	now := time.Unix(1000, 0)
	one, two := netip.MustParseAddr("192.168.53.2"), netip.MustParseAddr("192.168.53.3")
	for i := range questionBurst {
		if !q.take(one, now) {
			t.Fatalf("question %d is one too many", i)
		}
	}
	if q.take(one, now) || !q.take(two, now) {
		t.Error("the limit is not each one's own")
	}
	if now = now.Add(time.Second / questionRate); !q.take(one, now) || q.take(one, now) {
		t.Error("not one more after its time")
	}
	q.take(netip.MustParseAddr("192.168.53.4"), now.Add(time.Hour))
	if len(q.of) != 1 {
		t.Errorf("%d addresses are kept", len(q.of))
	}
}

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

// A binding with static DNS is answered at port 53 by the static resolver, by UDP and TCP, with checksums that are
// right on the wire and with those that are left to the interface; whatever is flushed, the host's own resolver
// never hears a word. One with forwarding DNS gets to that one.
func TestStaticResolver(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	own := listen(t, "", "0.0.0.0:53") // as dnsmasq would
	heard := make(chan string, 100)
	go func() {
		for {
			c, err := own.Accept()
			if err != nil {
				return
			}
			heard <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	serveStatic(t, s)
	all := []Binding{under(s.one, narrow.Name), s.two}
	for _, offload := range []bool{true, false} {
		if !offload {
			for ns, dev := range map[string]string{"one": "eth0", "": "capsbr0"} {
				checksums(t, ns, dev)
			}
		}
		spoils := []string{"", "iptables -F"}
		if offload {
			spoils = append(spoils, "iptables -t raw -F CAPSULED-ADMIT", "nft delete table bridge capsuled", "nft flush ruleset")
		}
		for _, spoil := range spoils {
			for _, network := range []string{"udp4", "tcp4"} {
				apply(t, t.Context(), s.chains, all)
				s.ready(t)
				want := map[string]string{
					"data.example.org.": "Success 198.51.100.2/60", "secret.evil.example.": "NameError",
				}
				if spoil != "" {
					run(t, t.Context(), strings.Fields(spoil)...)
				}
				for name, answer := range want {
					got := ask(t, "one", network, name, dnsmessage.TypeA)
					switch {
					case strings.HasPrefix(spoil, "nft"):
						if got != "" && spoil != "nft flush ruleset" {
							t.Errorf("%s, %s, %s: %q", spoil, network, name, got)
						}
					case got != answer:
						t.Errorf("offload %v, %q, %s, %s: %q, want %q", offload, spoil, network, name, got, answer)
					}
				}
				if spoil == "nft flush ruleset" { // then nothing stands between: it shows that the test can hear
					if !s.dns.has("evil") && network == "udp4" {
						t.Error("without any rule the host's resolver hears nothing: the test proves nothing")
					}
					s.dns.came.Reset()
					for len(heard) > 0 {
						<-heard
					}
					continue
				}
				if s.dns.has("evil") || s.dns.has("data") || len(heard) > 0 {
					t.Fatalf("%q: the host's own resolver is asked", spoil)
				}
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

// Who keeps connections open, or asks too much, is not answered, and nobody else is kept waiting.
func TestResolverIsBounded(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	serveStatic(t, s)
	apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), under(s.two, narrow.Name)})
	s.ready(t)
	if got := ask(t, "two", "tcp4", "data.example.org.", dnsmessage.TypeA); got == "" {
		t.Fatal("no answer")
	}
	for range streamsOfOneMax {
		dial(t, "one", "192.168.53.1:53")
	}
	over := dial(t, "one", "192.168.53.1:53")
	if err := over.SetReadDeadline(time.Now().Add(waitSeconds * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := over.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("one connection too many: %v", err)
	}
	if got := ask(t, "two", "tcp4", "data.example.org.", dnsmessage.TypeA); got == "" {
		t.Error("its neighbour is not answered")
	}
	r := NewResolver(s.chains, slog.New(slog.DiscardHandler))
	for range questionBurst {
		r.answer(question(t, "data.example.org.", dnsmessage.TypeA), s.one.IP, questionMax)
	}
	if r.answer(question(t, "data.example.org.", dnsmessage.TypeA), netip.MustParseAddr("192.168.53.200"), questionMax) != nil {
		t.Error("somebody without a binding is answered")
	}
	if testutil.ToFloat64(s.chains.metrics.questions.WithLabelValues("stranger")) != 1 {
		t.Error("strangers are not counted")
	}
}

func TestResolverPortTaken(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	listen(t, "", "192.168.53.1:10053")
	if err := NewResolver(s.chains, slog.New(slog.DiscardHandler)).Serve(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// The resolver is there before the bridge is.
func TestResolverWithoutABridge(t *testing.T) {
	c := fresh(t, guarded("192.168.53.0/24"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewResolver(c, slog.New(slog.DiscardHandler)).Serve(ctx); err != nil {
		t.Error(err)
	}
}
