package daemon_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
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

// TestExplainKnowsTheHost: an address of the host is closed whatever a rule says of it, in both directions, and the daemon
// warns of the rule; an address that is not known to be the host's or not is not explained.
func TestExplainKnowsTheHost(t *testing.T) {
	const own, other = "198.51.100.1", "198.51.100.2"
	var log bytes.Buffer
	unknown := error(nil)
	b := newBench(t, func(o *daemon.Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Own = func(a netip.Addr) (bool, error) { return a.String() == own, unknown }
		policies := o.Policies
		o.Policies = func() ([]policy.Policy, error) {
			list, err := policies()
			for i := range list {
				if list[i].Name == "maintenance" {
					peers := []netip.Prefix{netip.MustParsePrefix(own + "/32"), netip.MustParsePrefix(other + "/32")}
					list[i].Rules = append(list[i].Rules, policy.Rule{Line: 7, Peers: peers}, policy.Rule{Line: 8, Direction: policy.In, Peers: peers})
				}
			}
			return list, err
		}
	})
	id := b.launched()
	for _, packet := range []string{"tcp to %s:443", "udp from %s:53", "icmp to %s"} {
		for _, address := range []string{own, other} {
			x, err := b.ExplainPacket(t.Context(), root, id, fmt.Sprintf(packet, address))
			if err != nil || x.Allowed != (address == other) || strings.Contains(x.Why, own+" is an address of this host") != (address == own) {
				t.Errorf("%s: %+v, %v", fmt.Sprintf(packet, address), x, err)
			}
		}
	}
	unknown = firewall.ErrUnavailable
	if x, err := b.ExplainPacket(t.Context(), root, id, "tcp to "+other+":443"); err == nil {
		t.Errorf("while the host's addresses are not known: %+v", x)
	}
	b.kill() // nobody writes to the log any more
	if text := log.String(); strings.Count(text, "stays closed") != 2 || !strings.Contains(text, "line=7 peer="+own) || !strings.Contains(text, "line=8 peer="+own) {
		t.Errorf("warnings: %s", text)
	}
}
