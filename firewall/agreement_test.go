package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/testhost"
)

// protocols are the numbers of IP for those of policies; what policies have no name for is GRE here.
var protocols = map[policy.Protocol]byte{policy.TCP: unix.IPPROTO_TCP, policy.UDP: unix.IPPROTO_UDP, policy.ICMP: unix.IPPROTO_ICMP, policy.Any: unix.IPPROTO_GRE}

// opening is the first packet of a connection, with checksums, for connection tracking drops what has none. It ends
// in the mark, and has id as its identification.
func opening(protocol policy.Protocol, src, dst netip.AddrPort, id uint16, mark string) []byte {
	var p []byte
	sum := 0
	switch protocol {
	case policy.TCP:
		p = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src.Port()), dst.Port())
		p = append(p, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0x40, 0, 0, 0, 0, 0)
		sum = 16
	case policy.UDP:
		p = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src.Port()), dst.Port())
		p = append(binary.BigEndian.AppendUint16(p, uint16(8+len(mark)+len(mark)%2)), 0, 0)
		sum = 6
	case policy.ICMP:
		p = []byte{8, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
		sum = 2
	default:
		p = []byte{0, 0, 0x88, 0xb5}
	}
	p = append(p, mark...)
	if len(p)%2 == 1 {
		p = append(p, ' ')
	}
	if sum > 0 {
		head := []byte{}
		if protocol != policy.ICMP {
			head = append(append(head, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
			head = append(head, 0, protocols[protocol], byte(len(p)>>8), byte(len(p)))
		}
		binary.BigEndian.PutUint16(p[sum:], checksum(append(head, p...)))
	}
	h := []byte{0x45, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(20+len(p)))
	h = binary.BigEndian.AppendUint16(h, id)
	h = append(h, 0, 0, 64, protocols[protocol], 0, 0)
	h = append(append(h, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, p...)
}

// exam asks real packets what policy.Explain is asked.
type exam struct {
	s      *site
	world  *wire // what gets to the world
	uplink net.HardwareAddr
	last   policy.Direction
	next   uint16 // identification and source port of the next packet
}

func newExam(t *testing.T, s *site) *exam {
	t.Helper()
	x := &exam{s: s, world: openWire(t, "world", testhost.WorldUplink, 0), next: 20000}
	host, err := net.InterfaceByName(testhost.Uplink)
	if err != nil {
		t.Fatal(err)
	}
	x.uplink = host.HardwareAddr
	return x
}

// watch notes the identification of all that gets past the rules for what is for the host.
func (x *exam) watch(t *testing.T) {
	t.Helper()
	const text = `table inet watch {
	set seen { typeof ip id; flags dynamic; size 65535; }
	chain input { type filter hook input priority 300; meta nfproto ipv4 add @seen { ip id }; }
}`
	if _, err := command(t.Context(), text, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// sent is a packet under way.
type sent struct {
	packet policy.Packet
	id     uint16
	mark   string
}

// send sends a packet as it would be sent if nobody stopped it.
func (x *exam) send(t *testing.T, pk policy.Packet) sent {
	t.Helper()
	if pk.Direction == policy.In && !pk.Host && x.last == policy.Out {
		// Connections of a protocol without ports would meet those of the other direction.
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Fatal(err)
		}
	}
	x.last = pk.Direction
	x.next++
	defer x.s.wire1.has("") // so that no socket overflows
	defer x.world.has("")
	q := sent{pk, x.next, fmt.Sprintf("<packet %d>", x.next)}
	own, peer := x.s.one.IP, pk.Peer
	if pk.Host {
		peer = gateway
	}
	switch {
	case pk.Direction == policy.Out:
		x.s.wire1.send(ether(x.s.one.MAC, x.s.bridgeMAC, 0x0800, opening(pk.Protocol, port(own, x.next), port(peer, pk.Port), q.id, q.mark), ""))
	case !pk.Host:
		from := net.HardwareAddr{2, 7, 7, 7, 7, 7}
		x.world.send(ether(from, x.uplink, 0x0800, opening(pk.Protocol, port(peer, x.next), port(own, pk.Port), q.id, q.mark), ""))
	default: // a raw socket of the host, whose packets take the way of all the host sends
		pinned(t, "", func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			b := opening(pk.Protocol, port(gateway, x.next), port(own, pk.Port), q.id, q.mark)
			if err = unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: own.As4()}); err == unix.EPERM {
				err = nil // refused by a rule
			}
			return err
		})
	}
	return q
}

// arrived says of each packet whether it got to where it should go.
func (x *exam) arrived(t *testing.T, all []sent) []bool {
	t.Helper()
	x.s.settle()
	ids := map[string]bool{}
	_, list, _ := strings.Cut(run(t, t.Context(), "nft", "list", "set", "inet", "watch", "seen"), "elements = {")
	for _, id := range strings.FieldsFunc(list, func(r rune) bool { return r < '0' || r > '9' }) {
		ids[id] = true
	}
	got := make([]bool, len(all))
	for i, q := range all {
		switch {
		case q.packet.Direction == policy.In:
			got[i] = x.s.wire1.has(q.mark)
		case q.packet.Host:
			got[i] = ids[fmt.Sprint(q.id)]
		default:
			got[i] = x.world.has(q.mark)
		}
	}
	return got
}

// examined are the packets: all protocols, both directions, ports on both sides of ranges, peers that some policy
// names and that none does.
func examined() []policy.Packet {
	var all []policy.Packet
	peers := []netip.Addr{worldAddr, netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("198.18.0.9"), metadata}
	for _, d := range []policy.Direction{policy.Out, policy.In} {
		for _, host := range []bool{false, true} {
			for _, peer := range peers {
				all = append(all, policy.Packet{Direction: d, Protocol: policy.ICMP, Host: host, Peer: peer},
					policy.Packet{Direction: d, Protocol: policy.Any, Host: host, Peer: peer})
				for _, p := range []uint16{7, 22, 53, 67, 443, 444, 7001, 8000, 8080, 8081, 8100, 8101, 9000, 10053} {
					all = append(all, policy.Packet{Direction: d, Protocol: policy.TCP, Host: host, Peer: peer, Port: p},
						policy.Packet{Direction: d, Protocol: policy.UDP, Host: host, Peer: peer, Port: p})
				}
				if host {
					break
				}
			}
		}
	}
	return all
}

// asked says whether a packet can be examined under a policy by one packet: the forwarded port is another way in,
// and DHCP another message.
func asked(p policy.Policy, pk policy.Packet) bool {
	ssh := p.SSH && pk.Direction == policy.In && pk.Protocol == policy.TCP && pk.Port == 22
	dhcp := p.DHCP && pk.Direction == policy.Out && pk.Host && pk.Protocol == policy.UDP && pk.Port == 67
	return !ssh && !dhcp
}

// examPolicies are those of the exam: the shipped ones, and what operators could write.
func examPolicies(t *testing.T) []policy.Policy {
	t.Helper()
	list := []policy.Policy{
		narrow,
		{Name: "web", DNS: policy.Forward, Rules: []policy.Rule{
			{Deny: true, Direction: policy.Out, Peers: prefixes("203.0.113.0/24")},
			{Direction: policy.Out, Protocol: policy.TCP, Ports: ports(443, 443, 8000, 8100)},
			{Direction: policy.Out, Protocol: policy.ICMP},
			{Direction: policy.In, Protocol: policy.TCP, Ports: ports(9000, 9000)}, // of others than the host
		}},
		{Name: "mixed", DHCP: true, Rules: []policy.Rule{
			{Direction: policy.Out, Protocol: policy.UDP, Peers: prefixes("203.0.113.5/32"), Ports: ports(53, 67)},
			{Deny: true, Direction: policy.Out, Protocol: policy.UDP},
			{Direction: policy.Out, Peers: prefixes("198.51.100.2/32")},
			{Deny: true, Direction: policy.In, Protocol: policy.UDP, Peers: prefixes("198.51.100.2/32"), Ports: ports(443, 8080)},
			{Direction: policy.In, Peers: prefixes("198.51.100.0/24")},
			{Direction: policy.In, Protocol: policy.UDP, Host: true, Ports: ports(7, 7)},
			{Direction: policy.Out, Host: true, Protocol: policy.ICMP},
		}},
		{Name: "host", DNS: policy.Static, SSH: true, Rules: []policy.Rule{
			{Deny: true, Direction: policy.Out, Host: true, Protocol: policy.TCP, Ports: ports(1, 1000)},
			{Direction: policy.Out, Host: true},
			{Direction: policy.In, Host: true},
			{Direction: policy.In, Protocol: policy.TCP, Ports: ports(9000, 9000)},
		}},
		{Name: "nothing"},
	}
	for _, name := range policy.ShippedNames() {
		p, ok := policy.Shipped(name)
		if !ok {
			t.Fatalf("no shipped policy %q", name)
		}
		if !slices.ContainsFunc(list, func(q policy.Policy) bool { return q.Name == p.Name }) {
			list = append(list, p)
		}
	}
	return list
}

// What policy.Explain says is what becomes of real packets; and of what it calls dropped nothing passes with either
// layer taken away, as far as one layer can tell (see stateless).
func TestExplainAgrees(t *testing.T) {
	o := options("192.168.53.0/24")
	o.Policies = examPolicies(t)
	s := newSiteOf(t, o)
	x := newExam(t, s)
	nf := filepath.Join(sysctlRoot, "net/bridge/bridge-nf-call-iptables")
	x.watch(t)
	s.ready(t)
	var control []sent
	for _, pk := range examined() {
		if pk.Peer != metadata {
			control = append(control, x.send(t, pk))
		}
	}
	for i, ok := range x.arrived(t, control) {
		if !ok {
			t.Errorf("without a fence: %v does not arrive: the packet proves nothing", control[i].packet)
		}
	}
	for i, p := range o.Policies {
		t.Run(p.Name, func(t *testing.T) {
			// Docker has bridged frames pass the tables of iptables: every other policy is examined so.
			if err := os.WriteFile(nf, []byte{'0' + byte(i%2)}, 0); err != nil {
				t.Fatal(err)
			}
			for _, spoil := range []string{"", "iptables -F", "iptables -t raw -F", "nft delete table bridge capsuled"} {
				testAgreement(t, x, p, spoil)
			}
		})
	}
}

func testAgreement(t *testing.T, x *exam, p policy.Policy, spoil string) {
	apply(t, t.Context(), x.s.chains, []Binding{under(x.s.one, p.Name), x.s.two})
	if spoil != "" {
		run(t, t.Context(), strings.Fields(spoil)...)
	}
	var all []sent
	for _, pk := range examined() {
		if asked(p, pk) {
			all = append(all, x.send(t, pk))
		}
	}
	apply(t, t.Context(), x.s.chains, []Binding{under(x.s.one, p.Name), x.s.two}) // for what settles behind them
	allowed := 0
	for i, arrived := range x.arrived(t, all) {
		pk := all[i].packet
		v := p.Explain(pk)
		if v.Allowed {
			allowed++
		}
		switch {
		case spoil == "" && arrived != v.Allowed:
			t.Errorf("%v arrives: %v; explained as %q", pk, arrived, v.Why)
		case arrived && !v.Allowed && !(spoil == "iptables -F" && stateless(p, pk)):
			t.Errorf("after %q: %v arrives; explained as %q", spoil, pk, v.Why)
		}
	}
	if spoil == "" && allowed == 0 && !nothing(p) {
		t.Error("nothing is allowed")
	}
}

// stateless says whether the bridge layer alone, which knows no connections, may take a packet for an answer: where
// a rule allows its peer the other way, and names no ports.
func stateless(p policy.Policy, pk policy.Packet) bool {
	return pk.Protocol != policy.TCP && slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		begun := pk
		begun.Direction = r.Direction
		return !r.Deny && r.Direction != pk.Direction && len(r.Ports) == 0 && r.Matches(begun)
	})
}

// Connections that a narrow policy allows work in both directions, with the bridge layer alone as well, and nobody
// begins one with the ports of an answer.
func TestAnswersPass(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	x := newExam(t, s)
	run(t, t.Context(), "ip", "-n", "world", "route", "add", "192.168.53.0/24", "via", testhost.HostAddr)
	t.Cleanup(func() { run(t, bare(t), "ip", "-n", "world", "route", "del", "192.168.53.0/24") })
	greet(t, "world", "0.0.0.0:443", "world")
	greet(t, "", "0.0.0.0:8081", "host")
	greet(t, "one", "0.0.0.0:9000", "one")
	for _, spoil := range []string{"", "iptables -F", "iptables -t raw -F"} {
		t.Run(spoil, func(t *testing.T) {
			apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
			s.ready(t)
			if spoil != "" {
				run(t, t.Context(), strings.Fields(spoil)...)
			}
			wantGreeting(t, "one", testhost.WorldAddr+":443", "world "+testhost.HostAddr)
			wantGreeting(t, "one", "192.168.53.1:8081", "host 192.168.53.2")
			wantGreeting(t, "world", "192.168.53.2:9000", "one "+testhost.WorldAddr)
			marks := []string{"<answer's port " + spoil + ">", "<answer's port to host " + spoil + ">"}
			x.world.send(ether(net.HardwareAddr{2, 7, 7, 7, 7, 7}, x.uplink, 0x0800,
				opening(policy.TCP, port(worldAddr, 443), port(s.one.IP, 7), 1, marks[0]), ""))
			s.wire1.send(ether(s.one.MAC, s.bridgeMAC, 0x0800, opening(policy.TCP, port(s.one.IP, 9000), port(worldAddr, 7), 2, marks[1]), ""))
			s.settle()
			if s.wire1.has(marks[0]) || x.world.has(marks[1]) {
				t.Error("a connection begins with the port of an answer")
			}
			if spoil == "iptables -F" {
				return // the bridge layer knows no connections
			}
			mark := "<answer to nothing " + spoil + ">"
			x.world.send(ether(net.HardwareAddr{2, 7, 7, 7, 7, 7}, x.uplink, 0x0800,
				opening(policy.UDP, port(worldAddr, 7001), port(s.one.IP, 7), 3, mark), ""))
			s.settle()
			if s.wire1.has(mark) {
				t.Error("an answer comes to no question")
			}
		})
	}
}

// A binding of a policy that stays the same loses no packet while others change.
func TestOthersLoseNoPacket(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
	s.ready(t)
	s.settle()
	harder := narrow
	harder.Rules = harder.Rules[:1]
	done := make(chan error)
	go func() {
		var err error
		for i := range 10 {
			p := []policy.Policy{narrow, harder}[i%2]
			err = errors.Join(err, s.chains.SetPolicies(t.Context(), []policy.Policy{maintenance, p, {Name: "more" + fmt.Sprint(i)}}))
		}
		done <- err
	}()
	n := 0
	for over := false; !over; n++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		mark := fmt.Sprintf("<stays %d>", n)
		s.wire2.send(udp(s.two.MAC, s.bridgeMAC, port(s.two.IP, 5000), port(worldAddr, 7000), nil, mark))
		s.world.await(mark)
	}
	if n < 10 {
		t.Errorf("%d packets in all", n)
	}
	wantVerified(t, t.Context(), s.chains)
}
