package firewall

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall/policy"
)

// stuck is a table of connections whose entries cannot be deleted.
type stuck struct{ flowTable }

func (stuck) ConntrackDeleteFilters(netlink.ConntrackTableType, netlink.InetFamily, ...netlink.CustomConntrackFilter) (uint, error) {
	return 0, unix.EPERM
}

// Where connections cannot be cut, the change is refused and the binding closed: nothing passes, by a connection that was
// there before neither, until it is opened again; then that is gone.
func TestUncutConnectionsAreClosed(t *testing.T) {
	own := maintenance
	own.Name = "own"
	moved := func(b Binding) Binding { b.IP = netip.MustParseAddr("192.168.53.77"); return b }
	otherPort := func(b Binding) Binding { b.SSHPort = 16500; return b }
	for name, change := range map[string]func(*site) error{
		"put closed":           func(s *site) error { return s.chains.Put(t.Context(), s.one.closed()) },
		"put moved":            func(s *site) error { return s.chains.Put(t.Context(), moved(s.one)) },
		"put another port":     func(s *site) error { return s.chains.Put(t.Context(), otherPort(s.one)) },
		"put another policy":   func(s *site) error { return s.chains.Put(t.Context(), under(s.one, narrow.Name)) },
		"drop":                 func(s *site) error { return s.chains.Drop(t.Context(), s.one.Tap) },
		"apply closed":         func(s *site) error { return s.chains.Apply(t.Context(), []Binding{s.one.closed(), s.two}) },
		"apply another policy": func(s *site) error { return s.chains.Apply(t.Context(), []Binding{under(s.one, narrow.Name), s.two}) },
		"apply none":           func(s *site) error { return s.chains.Apply(t.Context(), []Binding{s.two}) },
		"apply another port anew": func(s *site) error {
			c, err := New(s.opt)
			if err != nil {
				return err
			}
			s.chains, c.flows = c, stuck{c.flows}
			return c.Apply(t.Context(), []Binding{otherPort(s.one), s.two})
		},
		"policies": func(s *site) error {
			tighter := own
			tighter.SSH = false
			return s.chains.SetPolicies(t.Context(), []policy.Policy{maintenance, narrow, tighter})
		},
	} {
		t.Run(name, func(t *testing.T) { testUncut(t, own, change) })
	}
}

func testUncut(t *testing.T, own policy.Policy, change func(*site) error) {
	const ask = 7000
	o := guarded("192.168.53.0/24")
	o.Policies = append(o.Policies, own)
	s := newSiteOf(t, o)
	s.one.Policy = own.Name
	all := []Binding{s.one, s.two}
	apply(t, t.Context(), s.chains, all)
	s.ready(t)
	peers := map[*wire]*net.UDPAddr{}
	for w, from := range map[*wire]Binding{s.wire1: s.one, s.wire2: s.two} {
		w.send(udp(from.MAC, s.bridgeMAC, port(from.IP, 5000), port(worldAddr, ask), nil, "<asks "+from.Tap+">"))
		peers[w] = s.world.await("<asks " + from.Tap + ">")
	}
	answered := func(mark string) bool { // whether an answer gets in by the connection; its neighbour's always does
		for _, w := range []*wire{s.wire1, s.wire2} {
			if _, err := s.world.conn.WriteTo([]byte(mark), peers[w]); err != nil {
				t.Fatal(err)
			}
		}
		s.wire2.await(mark)
		return s.wire1.has(mark)
	}
	if !answered("<before>") {
		t.Fatal("no answer gets in: there is nothing to cut")
	}
	first := s.chains // a fresh process's takes its place in some, and this one's table is used to the end
	defer runtime.KeepAlive(first)
	real := first.flows
	s.chains.flows = stuck{real}
	if err := change(s); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "cut connections") {
		t.Errorf("got %v, want that connections could not be cut", err)
	}
	wantLink(t, s.chains, s.one.Tap, LinkDown)
	if flows(t, s, s.one) == 0 {
		t.Error("the connection is gone all the same: nothing was refused")
	}
	rulesAlone(t, s.one)
	if answered("<uncut>") {
		t.Error("an answer gets in by the connection that could not be cut")
	}
	if s.saw(probe{"a new one", fromOne(func(s *site, m string) []byte { return plain(s, worldAddr, ask, m) }), func(s *site) watcher { return s.world }, false}) {
		t.Error("a new connection can be begun")
	}
	s.chains.flows = real
	apply(t, t.Context(), s.chains, all)
	if n := flows(t, s, s.one); n != 0 {
		t.Errorf("%d connections outlive that the binding was closed and opened", n)
	}
	if flows(t, s, s.two) == 0 {
		t.Error("its neighbour's are cut")
	}
}
