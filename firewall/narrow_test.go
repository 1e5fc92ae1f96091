package firewall

import (
	"slices"
	"testing"
)

// narrowFrames are those of layer2 and layer3 that a narrow policy lets through.
var narrowFrames = []string{
	"honest ARP request", "the host to a capsule: ARP",
	"honest datagram", "from the DHCP server's port", // questions for names, for the static resolver
	"the world", // a port that a rule names
}

// A narrow policy leaves nothing of the frames that every capsule in maintenance needs but ARP for the gateway.
func TestNarrowFrames(t *testing.T) {
	s := newSiteOf(t, guarded("192.168.53.0/24"))
	run(t, t.Context(), "ip", "-n", "world", "addr", "replace", "169.254.169.254/32", "dev", "lo")
	asks := probe{"ARP for another", fromOne(func(s *site, m string) []byte {
		return arp(s.one.MAC, everyone, 1, s.one.MAC, s.one.IP, s.two.IP, m)
	}), atBridge, false}
	told := probe{"ARP of another to a capsule", func(s *site, m string) {
		s.bridge.send(arp(s.bridgeMAC, everyone, 1, s.bridgeMAC, s.two.IP, s.one.IP, m))
	}, atOne, false}
	all := append(slices.Concat(layer2, layer3), asks, told)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	for _, p := range []probe{asks, told} {
		if s.ready(t); !s.saw(p) {
			t.Errorf("maintenance: %s does not arrive: the probe proves nothing", p.name)
		}
	}
	apply(t, t.Context(), s.chains, []Binding{under(s.one, narrow.Name), s.two})
	for _, p := range all {
		s.ready(t)
		if got := s.saw(p); got != slices.Contains(narrowFrames, p.name) {
			t.Errorf("narrow: %s arrives: %v", p.name, got)
		}
	}
}
