package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/internal/testhost"
)

var (
	gateway   = netip.MustParseAddr("192.168.53.1")
	hostAddr  = netip.MustParseAddr(testhost.HostAddr)
	worldAddr = netip.MustParseAddr(testhost.WorldAddr)
	broadcast = netip.MustParseAddr("255.255.255.255")
	metadata  = netip.MustParseAddr("169.254.169.254")
)

// watcher is a place where a packet may turn up.
type watcher interface{ has(mark string) bool }

// probe is one packet and the place where it turns up without a fence.
type probe struct {
	name    string
	send    func(s *site, mark string)
	at      func(s *site) watcher
	allowed bool // in maintenance mode
}

func atBridge(s *site) watcher { return s.bridge }
func atOne(s *site) watcher    { return s.wire1 }
func atTwo(s *site) watcher    { return s.wire2 }
func atDNS(s *site) watcher    { return s.dns }
func atAPI(s *site) watcher    { return s.api }
func atWorld(s *site) watcher  { return s.beyond }

// fromOne is a probe that the first capsule sends.
func fromOne(frame func(s *site, mark string) []byte) func(*site, string) {
	return func(s *site, mark string) { s.wire1.send(frame(s, mark)) }
}

func port(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// plain is an honest datagram of the first capsule.
func plain(s *site, dst netip.Addr, p uint16, mark string) []byte {
	return udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 5000), port(dst, p), nil, mark)
}

// layer2 are the frames that the bridge layer has to judge, watched where the bridge hands them on.
var layer2 = []probe{
	{"honest datagram", fromOne(func(s *site, m string) []byte { return plain(s, gateway, 53, m) }), atBridge, true},
	{"honest ARP request", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, s.one.IP, gateway, m)
	}), atBridge, true},
	{"ARP probe", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, nobody, s.one.IP, m)
	}), atBridge, true},
	{"DHCP discover", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, everyone, port(nobody, 68), port(broadcast, 67), bootp(s.one.MAC), m)
	}), atBridge, true},
	{"DHCP renewal", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 68), port(gateway, 67), bootp(s.one.MAC), m)
	}), atBridge, true},
	{"DHCP for another's hardware", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 68), port(gateway, 67), bootp(s.two.MAC), m)
	}), atBridge, false},
	{"DHCP in pieces", fromOne(func(s *site, m string) []byte {
		return fragment(udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 68), port(gateway, 67), bootp(s.one.MAC), m))
	}), atBridge, false},
	{"DHCP server reply", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, everyone, port(s.one.IP, 67), port(broadcast, 68), bootp(s.two.MAC), m)
	}), atBridge, false},
	{"from the DHCP server's port", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 67), port(gateway, 53), nil, m)
	}), atBridge, false},
	{"to the DHCP client's port", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 5000), port(gateway, 68), nil, m)
	}), atBridge, false},
	{"DHCP discover from a false MAC", fromOne(func(s *site, m string) []byte {
		return udp(net.HardwareAddr{2, 9, 9, 9, 9, 9}, everyone, port(nobody, 68), port(broadcast, 67), bootp(s.one.MAC), m)
	}), atBridge, false},
	{"no address, not DHCP", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, everyone, port(nobody, 5000), port(broadcast, 7), nil, m)
	}), atBridge, false},
	{"false MAC", fromOne(func(s *site, m string) []byte {
		return udp(net.HardwareAddr{2, 9, 9, 9, 9, 9}, s.bridgeMAC, port(s.one.IP, 5000), port(gateway, 53), nil, m)
	}), atBridge, false},
	{"another's MAC and address", fromOne(func(s *site, m string) []byte {
		return udp(s.two.MAC, s.bridgeMAC, port(s.two.IP, 5000), port(gateway, 53), nil, m)
	}), atBridge, false},
	{"another's address", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(s.two.IP, 5000), port(gateway, 53), nil, m)
	}), atBridge, false},
	{"the world's address", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.bridgeMAC, port(worldAddr, 5000), port(gateway, 53), nil, m)
	}), atBridge, false},
	{"ARP reply as the gateway", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 2, s.one.MAC, gateway, s.two.IP, m)
	}), atBridge, false},
	{"ARP request as another", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, s.two.IP, gateway, m)
	}), atBridge, false},
	{"ARP for another's MAC", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 2, s.two.MAC, s.one.IP, gateway, m)
	}), atBridge, false},
	{"reverse ARP", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 3, s.one.MAC, s.one.IP, gateway, m)
	}), atBridge, false},
	{"IPv6", fromOne(func(s *site, m string) []byte {
		return udp6(s.one.MAC, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, m)
	}), atBridge, false},
	{"VLAN", fromOne(func(s *site, m string) []byte { return tagged(plain(s, gateway, 53, m), 0x8100, 5) }), atBridge, false},
	{"VLAN 0", fromOne(func(s *site, m string) []byte { return tagged(plain(s, gateway, 53, m), 0x8100, 0) }), atBridge, false},
	{"VLAN in VLAN", fromOne(func(s *site, m string) []byte {
		return tagged(tagged(plain(s, gateway, 53, m), 0x8100, 5), 0x88a8, 6)
	}), atBridge, false},
	{"VLAN with ARP", fromOne(func(s *site, m string) []byte {
		return tagged(arp(s.one.MAC, everyone, 1, s.one.MAC, s.one.IP, gateway, m), 0x8100, 5)
	}), atBridge, false},
	{"foreign ethertype", fromOne(func(s *site, m string) []byte { return ether(s.one.MAC, everyone, 0x88b5, nil, m) }), atBridge, false},
	{"802.3 length", fromOne(func(s *site, m string) []byte {
		return ether(s.one.MAC, everyone, 64, []byte{0xaa, 0xaa, 3}, fmt.Sprintf("%-64s", m))
	}), atBridge, false},
	{"to another capsule", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, s.two.MAC, port(s.one.IP, 5000), port(s.two.IP, 7), nil, m)
	}), atTwo, false},
	{"broadcast to another capsule", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, s.one.IP, s.two.IP, m)
	}), atTwo, false},
	{"a stranger to a capsule", func(s *site, m string) {
		s.wireStranger.send(udp(net.HardwareAddr{2, 0, 0x53, 0, 0x99, 0x99}, s.one.MAC, port(gateway, 5000), port(s.one.IP, 7), nil, m))
	}, atOne, false},
	{"a capsule to a stranger", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, s.one.IP, gateway, m)
	}), func(s *site) watcher { return s.wireStranger }, false},
	{"the host to a capsule: ARP", func(s *site, m string) {
		s.bridge.send(arp(s.bridgeMAC, everyone, 1, s.bridgeMAC, gateway, s.one.IP, m))
	}, atOne, true},
	{"the host to a capsule: DHCP reply", func(s *site, m string) {
		s.bridge.send(udp(s.bridgeMAC, everyone, port(gateway, 67), port(broadcast, 68), bootp(s.one.MAC), m))
	}, atOne, true},
	{"the host to a capsule: DHCP reply to its MAC", func(s *site, m string) {
		s.bridge.send(udp(s.bridgeMAC, s.one.MAC, port(gateway, 67), port(s.one.IP, 68), bootp(s.one.MAC), m))
	}, atOne, true},
	{"the host to a capsule: IPv6", func(s *site, m string) {
		s.bridge.send(udp6(s.bridgeMAC, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, m))
	}, atOne, false},
	{"the host to a capsule: broadcast", func(s *site, m string) {
		s.bridge.send(udp(s.bridgeMAC, everyone, port(gateway, 9), port(broadcast, 9), nil, m))
	}, atOne, false},
	{"the host to a MAC that nobody has", func(s *site, m string) {
		s.bridge.send(udp(s.bridgeMAC, net.HardwareAddr{2, 8, 8, 8, 8, 8}, port(gateway, 9), port(s.one.IP, 9), nil, m))
	}, atOne, false},
	{"the host to a capsule, foreign ethertype", func(s *site, m string) {
		s.bridge.send(ether(s.bridgeMAC, s.one.MAC, 0x88b5, nil, m))
	}, atOne, false},
}

// layer3 are packets that the IP layer has to judge, watched where a program would get them.
var layer3 = []probe{
	{"DNS of the host", fromOne(func(s *site, m string) []byte { return plain(s, gateway, 53, m) }), atDNS, true},
	{"DNS of the host by its other address", fromOne(func(s *site, m string) []byte { return plain(s, hostAddr, 53, m) }), atDNS, false},
	{"a service of the host", fromOne(func(s *site, m string) []byte { return plain(s, gateway, 8080, m) }), atAPI, false},
	{"a service by the host's other address", fromOne(func(s *site, m string) []byte { return plain(s, hostAddr, 8080, m) }), atAPI, false},
	{"a service by broadcast", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, everyone, port(s.one.IP, 5000), port(broadcast, 8080), nil, m)
	}), atAPI, false},
	{"a stranger to the host", func(s *site, m string) {
		s.wireStranger.send(udp(net.HardwareAddr{2, 0, 0x53, 0, 0x99, 0x99}, s.bridgeMAC, port(netip.MustParseAddr("192.168.53.99"), 1), port(gateway, 53), nil, m))
	}, atDNS, false},
	{"a stranger as a capsule to the host", func(s *site, m string) {
		s.wireStranger.send(udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 1), port(gateway, 53), nil, m))
	}, atDNS, false},
	{"a stranger as a capsule to the world", func(s *site, m string) {
		s.wireStranger.send(udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 1), port(worldAddr, 7001), nil, m))
	}, atWorld, false},
	{"the world", fromOne(func(s *site, m string) []byte { return plain(s, worldAddr, 7001, m) }), atWorld, true},
	{"a metadata service beyond", fromOne(func(s *site, m string) []byte { return plain(s, metadata, 7001, m) }), atWorld, false},
	{"another capsule by way of the host", fromOne(func(s *site, m string) []byte { return plain(s, s.two.IP, 7, m) }), atTwo, false},
	{"the host to a capsule", func(s *site, m string) { say(s.bridge.t, "", s.one.IP.String()+":7", m) }, atOne, false},
	{"the world to a capsule", func(s *site, m string) { say(s.bridge.t, "world", s.one.IP.String()+":7", m) }, atOne, false},
	{"the world as a capsule to the host", func(s *site, m string) {
		w := openWire(s.bridge.t, "world", testhost.WorldUplink, 0)
		host, _ := net.InterfaceByName(testhost.Uplink)
		world := net.HardwareAddr{2, 7, 7, 7, 7, 7}
		w.send(udp(world, host.HardwareAddr, port(s.one.IP, 5000), port(hostAddr, 8080), nil, m))
	}, atAPI, false},
}

// settle waits until what was sent before has gone where it goes: honest packets of the second capsule, sent
// on the same processor, go the same ways behind it, and again when the first ones have arrived.
func (s *site) settle() {
	for range 3 {
		mark := fmt.Sprintf("<sentinel %d>", probes)
		probes++
		s.wire2.send(udp(s.two.MAC, s.bridgeMAC, port(s.two.IP, 5000), port(gateway, 53), nil, mark))
		s.dns.await(mark)
		s.wire2.send(udp(s.two.MAC, s.bridgeMAC, port(s.two.IP, 5000), port(worldAddr, 7000), nil, mark))
		s.world.await(mark)
		s.bridge.send(arp(s.bridgeMAC, everyone, 1, s.bridgeMAC, gateway, gateway, mark))
		s.wire2.await(mark)
	}
}

// saw sends a probe and says whether it turned up.
func (s *site) saw(p probe) bool {
	mark := fmt.Sprintf("<%s %d>", p.name, probes)
	probes++
	p.send(s, mark)
	s.settle()
	return p.at(s).has(mark)
}

var probes int // makes every mark another

// ready makes neighbours known, and makes the world a metadata service.
func (s *site) ready(t *testing.T) {
	t.Helper()
	run(t, t.Context(), "ip", "link", "set", "capsbr0", "type", "bridge", "fdb_flush")
	for ip, mac := range map[netip.Addr]net.HardwareAddr{s.one.IP: s.one.MAC, s.two.IP: s.two.MAC} {
		run(t, t.Context(), "ip", "neigh", "replace", ip.String(), "lladdr", mac.String(), "dev", "capsbr0", "nud", "permanent")
	}
	for w, b := range map[*wire]Binding{s.wire1: s.one, s.wire2: s.two} { // the bridge learns their ports
		mark := fmt.Sprintf("<hello %d>", probes)
		probes++
		w.send(arp(b.MAC, everyone, 1, b.MAC, b.IP, gateway, mark))
		s.bridge.await(mark)
	}
}

func TestPackets(t *testing.T) {
	for _, nf := range []string{"1", "0"} {
		t.Run("bridge-nf "+nf, func(t *testing.T) {
			s := newSite(t)
			sysctl(t, "net/bridge/bridge-nf-call-iptables", nf) // nothing may depend on it
			run(t, t.Context(), "ip", "-n", "world", "addr", "replace", "169.254.169.254/32", "dev", "lo")
			for _, p := range slices.Concat(layer2, layer3) {
				s.ready(t)
				if !s.saw(p) {
					t.Errorf("without a fence: %s does not arrive: the probe proves nothing", p.name)
				}
			}
			apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
			isolate(t, s.one, "off")
			for _, p := range slices.Concat(layer2, layer3) {
				s.ready(t)
				if got := s.saw(p); got != p.allowed {
					t.Errorf("maintenance: %s arrives: %v, want %v", p.name, got, p.allowed)
				}
			}
			testClosed(t, s)
		})
	}
}

// testClosed wants nothing from or to a closed binding, nor one that is gone, also with one layer taken away.
func testClosed(t *testing.T, s *site) {
	all := []Binding{s.one.closed(), s.two}
	for _, c := range []struct {
		name   string
		set    []Binding
		spoil  []string
		probes []probe
	}{
		{"closed", all, nil, slices.Concat(layer2, layer3)},
		{"no binding", all[1:], nil, slices.Concat(layer2, layer3)},
		{"closed, IP layer flushed", all, []string{"iptables", "-F"}, layer2},
	} {
		apply(t, t.Context(), s.chains, c.set)
		rulesAlone(t, s.one)
		if c.spoil != nil {
			run(t, t.Context(), c.spoil...)
		}
		for _, p := range c.probes {
			run(t, t.Context(), "ip", "link", "set", "capsbr0", "type", "bridge", "fdb_flush")
			if c.spoil == nil && s.saw(p) {
				t.Errorf("%s: %s arrives", c.name, p.name)
			} else if c.spoil != nil && p.allowed && s.saw(p) {
				t.Errorf("%s: %s arrives", c.name, p.name)
			}
		}
	}
}

// With the bridge layer gone the IP layer lets nothing through at all, and a closed binding stays closed even
// if somebody took the chain away that asks for the mark.
func TestBridgeLayerGoneIsClosed(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one.closed(), s.two})
	rulesAlone(t, s.one)
	run(t, t.Context(), "iptables", "-t", "raw", "-F", "CAPSULED-ADMIT")
	run(t, t.Context(), "nft", "delete", "table", "bridge", "capsuled")
	s.ready(t)
	for _, p := range layer3 {
		if p.allowed && s.saw(p) {
			t.Errorf("the IP layer alone: %s arrives", p.name)
		}
	}
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	s.settle()
	run(t, t.Context(), "nft", "delete", "table", "bridge", "capsuled")
	marks := []string{"late DNS", "late world"}
	s.wire1.send(plain(s, gateway, 53, marks[0]))
	s.wire1.send(plain(s, worldAddr, 7001, marks[1]))
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	s.settle()
	if s.dns.has(marks[0]) || s.beyond.has(marks[1]) {
		t.Error("without the bridge layer packets arrive")
	}
}

// Frames to the bridge group addresses reach programs that listen on the port itself, such as 802.1X.
func TestLinkLocalFrames(t *testing.T) {
	s := newSite(t)
	eapol := openWire(t, "", s.one.Tap, 0x888e)
	p := probe{"802.1X", fromOne(func(s *site, m string) []byte {
		return ether(s.one.MAC, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 3}, 0x888e, nil, m)
	}), func(*site) watcher { return eapol }, false}
	if !s.saw(p) {
		t.Error("without a fence it does not arrive: the probe proves nothing")
	}
	for name, set := range map[string][]Binding{"maintenance": {s.one, s.two}, "closed": {s.one.closed(), s.two}, "none": {s.two}} {
		apply(t, t.Context(), s.chains, set)
		rulesAlone(t, s.one)
		if s.saw(p) {
			t.Errorf("%s: it arrives", name)
		}
	}
}

// A tap that somebody takes out of the bridge speaks to the host without the bridge layer.
func TestTapOutsideTheBridge(t *testing.T) {
	s := newSite(t)
	tap, err := net.InterfaceByName(s.one.Tap)
	if err != nil {
		t.Fatal(err)
	}
	p := probe{"direct", fromOne(func(s *site, m string) []byte {
		return udp(s.one.MAC, tap.HardwareAddr, port(netip.MustParseAddr("203.0.113.7"), 5000), port(hostAddr, 8080), nil, m)
	}), atAPI, false}
	run(t, t.Context(), "ip", "link", "set", s.one.Tap, "nomaster")
	sysctl(t, "net/ipv4/conf/"+s.one.Tap+"/rp_filter", "0")
	if !s.saw(p) {
		t.Error("without a fence it does not arrive: the probe proves nothing")
	}
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	if s.saw(p) {
		t.Error("it arrives")
	}
}

// A mark of the host's own on such packets is left alone, and ours is gone before others look.
func TestMarkIsNotSeenByOthers(t *testing.T) {
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	run(t, t.Context(), "iptables", "-t", "mangle", "-A", "PREROUTING", "-m", "mark", "--mark", admitted+"/"+admitted, "-j", "DROP")
	if !s.saw(probe{"DNS", fromOne(func(s *site, m string) []byte { return plain(s, gateway, 53, m) }), atDNS, true}) {
		t.Error("others see the mark")
	}
}

// flows counts the connection tracking entries of an address.
func flows(t *testing.T, s *site, b Binding) int {
	t.Helper()
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	f, n := &flowsOf{s.opt.Subnet, s.opt.gateway(), func(a netip.Addr) bool { return a == b.IP }}, 0
	for _, flow := range all {
		if f.MatchConntrackFlow(flow) {
			n++
		}
	}
	return n
}
