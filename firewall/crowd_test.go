package firewall

import (
	"fmt"
	"testing"
)

// TestCrowd has one capsule open more connections than a binding may have: it stops at the limit, and its neighbour
// does not feel it.
func TestCrowd(t *testing.T) {
	const limit = 4096
	s := newSite(t)
	apply(t, t.Context(), s.chains, []Binding{s.one, s.two})
	s.ready(t)
	for p := range uint16(limit + 1000) {
		mark := ""
		if p%100 == 99 {
			mark = fmt.Sprintf("<flow %d>", p)
		}
		s.wire1.send(udp(s.one.MAC, s.bridgeMAC, port(s.one.IP, 1024+p), port(worldAddr, 9), nil, mark))
		if mark != "" {
			s.bridge.await(mark) // no more at once than the watcher's socket holds
		}
	}
	judged(s, s.wire1, s.one)
	if n := flows(t, s, s.one); n < limit-1 || n > limit+1 {
		t.Errorf("%d connections of a binding that may have %d", n, limit)
	}
	s.wire2.send(udp(s.two.MAC, s.bridgeMAC, port(s.two.IP, 1024), port(worldAddr, 9), nil, ""))
	judged(s, s.wire2, s.two)
	if flows(t, s, s.two) == 0 {
		t.Error("its neighbour cannot open one")
	}
}

// judged returns when all that a binding has sent was judged: frames of one tap are taken in order.
func judged(s *site, w *wire, b Binding) {
	mark := fmt.Sprintf("<judged %s>", b.Tap)
	w.send(udp(b.MAC, s.bridgeMAC, port(b.IP, 68), port(gateway, 67), bootp(b.MAC), mark))
	s.bridge.await(mark)
}
