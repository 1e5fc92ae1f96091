package daemon_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestClosedSaysSo: of a capsule that is closed no packet is dropped for want of a rule; it is said that it is closed and why.
func TestClosedSaysSo(t *testing.T) {
	b := newBench(t, nil)
	id := b.launched()
	says := func(words string) {
		t.Helper()
		for _, packet := range []string{"tcp to 203.0.113.9:443", "udp to host:53", "tcp to 192.168.53.9:22"} {
			x, err := b.ExplainPacket(t.Context(), root, id, packet)
			if err != nil || x.Allowed || x.Policy != "closed" || x.Why != "closed: "+words {
				t.Errorf("%s: %+v, %v; want %q", packet, x, err, words)
			}
		}
		v, err := b.ShowPolicy(t.Context(), root, id)
		if err != nil || v.Policy.Name != "closed" || v.Policy.Comment != words {
			t.Errorf("shown: %+v, %v; want %q", v.Policy, err, words)
		}
	}
	if x, err := b.ExplainPacket(t.Context(), root, id, "tcp to 203.0.113.9:443"); err != nil || !strings.Contains(x.Why, "no rule") {
		t.Errorf("in maintenance mode: %+v, %v", x, err)
	}
	reached, release := b.machine.hold("Checkpoint")
	op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	says("nothing in, nothing out on the way between the modes")
	release()
	b.succeed(op, nil)
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	says("nothing in, nothing out")
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.MoveCapsule(id, []daemon.State{daemon.Shutdown}, daemon.Failed, daemon.Secure, "a test")
	}); err != nil {
		t.Fatal(err)
	}
	says("nothing in, nothing out while the capsule is held")
}
