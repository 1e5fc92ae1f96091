package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/testhost"
)

// What ends at the host is known as the host's, and stays closed to a capsule though a rule names it, in both directions.
func TestOwn(t *testing.T) {
	o := options("192.168.53.0/24")
	o.Policies = append(o.Policies, policy.Policy{Name: "named", Secure: true, Rules: []policy.Rule{
		{Direction: policy.Out, Protocol: policy.UDP, Peers: prefixes(testhost.HostAddr+"/32", testhost.WorldAddr+"/32"), Ports: ports(7000, 8080)},
		{Direction: policy.In, Protocol: policy.UDP, Peers: prefixes(testhost.HostAddr + "/32"), Ports: ports(9, 9)},
	}})
	s := newSiteOf(t, o)
	for address, want := range map[netip.Addr]bool{
		hostAddr: true, gateway: true, netip.MustParseAddr("192.168.53.255"): true, netip.MustParseAddr("127.0.0.9"): true,
		worldAddr: false, s.one.IP: false, netip.MustParseAddr("203.0.113.9"): false,
	} {
		if own, err := Own(address); err != nil || own != want {
			t.Errorf("%v is the host's: %t, %v; want %t", address, own, err, want)
		}
	}
	apply(t, t.Context(), s.chains, []Binding{under(s.one, "named"), s.two})
	s.ready(t)
	if !s.saw(probe{"the world", fromOne(func(s *site, m string) []byte { return plain(s, worldAddr, 7000, m) }), func(s *site) watcher { return s.world }, true}) {
		t.Error("what is named beyond the host does not arrive: the probe proves nothing")
	}
	if s.saw(probe{"the host", fromOne(func(s *site, m string) []byte { return plain(s, hostAddr, 8080, m) }), atAPI, false}) {
		t.Error("another address of the host is open")
	}
	mark := fmt.Sprintf("<from the host %d>", probes)
	pinned(t, "", func() error { return sendFrom(hostAddr, s.one.IP, 9, mark) })
	s.settle()
	if s.wire1.has(mark) {
		t.Error("from another address of the host it arrives")
	}
}

// sendFrom sends a datagram from one of the host's addresses.
func sendFrom(from, to netip.Addr, port uint16, text string) error {
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(text))
	if errors.Is(err, unix.EPERM) {
		err = nil // refused by the rules
	}
	return errors.Join(err, conn.Close())
}
