package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

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
	for range 10 * questionBurst {
		r.answer(question(t, "data.example.org.", dnsmessage.TypeA), s.one.IP, questionMax)
	}
	if testutil.ToFloat64(s.chains.metrics.questions.WithLabelValues("limited")) < 2 { // one was a connection
		t.Error("whoever asks too much is answered")
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
