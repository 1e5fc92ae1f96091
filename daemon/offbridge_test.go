package daemon_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/firewall"
)

// offBridge is a firewall that finds taps on no bridge, until libvirt makes one anew.
type offBridge struct {
	fencesOf
	off      atomic.Bool
	restored func() bool
}

func (o *offBridge) Inspect(ctx context.Context, tap string) (firewall.Evidence, error) {
	e, err := o.fencesOf.Inspect(ctx, tap)
	if o.off.Load() && !o.restored() {
		e.Port, e.PortDifference = firewall.NoPort, tap+": on no bridge, should be on capsbr0"
		e.Differences = append(e.Differences, e.PortDifference)
	}
	return e, err
}

// TestOffTheBridge: a tap that somebody took off the bridge is down by that alone. The way back to maintenance mode, which
// makes it anew, is open; the way to secure mode is refused in words, and the capsule runs on as it was.
func TestOffTheBridge(t *testing.T) {
	o := &offBridge{}
	b := newBench(t, func(opt *daemon.Options) { o.fencesOf = opt.Fences.(fencesOf); opt.Fences = o })
	o.restored = func() bool { return b.called("Restore") > 0 }
	id := b.launched()
	b.idle()
	o.off.Store(true)
	op, err := b.SwitchCapsule(t.Context(), root, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	if op = b.wait(op, nil); op.State != daemon.OperationFailed || !strings.Contains(op.Cause, "on no bridge") {
		t.Errorf("enter: %s: %s", op.State, op.Cause)
	}
	if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance || c.Observed != "running" {
		t.Errorf("after it: %s %s, %s", c.State, c.Mode, c.Observed)
	}
	o.off.Store(false)
	b.succeed(b.SwitchCapsule(t.Context(), root, id, daemon.Secure, false))
	o.off.Store(true)
	b.succeed(b.SwitchCapsule(t.Context(), root, id, daemon.Maintenance, false))
	b.settled()
}
