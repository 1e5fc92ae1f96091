package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cutAttempts bounds how often a dump of the table that changed meanwhile is repeated.
const cutAttempts = 10

// flowTable is the kernel's table of connections.
type flowTable interface {
	ConntrackTableList(netlink.ConntrackTableType, netlink.InetFamily) ([]*netlink.ConntrackFlow, error)
	ConntrackDeleteFilters(netlink.ConntrackTableType, netlink.InetFamily, ...netlink.CustomConntrackFilter) (uint, error)
}

var _ flowTable = (*netlink.Handle)(nil)

// cut deletes the connection tracking entries of those addresses of the subnet that are named (never of the
// host's own, which is an end of theirs): a connection that a rule once let in must ask the rules again.
func (c *Chains) cut(ctx context.Context, named func(netip.Addr) bool) error {
	_, err := c.cutFlows(ctx, named)
	return err
}

// Cut deletes the connection tracking entries of a tap's binding and says how many there were: its connections have
// to ask the rules again. Whoever wants them to end changes the policy first. A tap without a binding is ErrInvalid.
func (c *Chains) Cut(ctx context.Context, tap string) (int, error) {
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("firewall: cut: %w", err)
	}
	defer done()
	b, ok := c.want.bindings[tap]
	if !ok {
		return 0, fmt.Errorf("firewall: cut: %w: tap %q has no binding", ErrInvalid, tap)
	}
	n, err := c.cutFlows(ctx, func(a netip.Addr) bool { return a == b.IP })
	if err != nil {
		return n, fmt.Errorf("firewall: cut %s: %w", tap, err)
	}
	return n, nil
}

func (c *Chains) cutFlows(ctx context.Context, named func(netip.Addr) bool) (int, error) {
	total := 0
	f := &flowsOf{c.opt.Subnet, c.opt.gateway(), named}
	for range cutAttempts {
		n, err := c.flows.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
		c.metrics.cut.Add(float64(n))
		total += int(n)
		if n > 0 {
			c.opt.Log.LogAttrs(ctx, slog.LevelInfo, "connections cut", slog.Uint64("entries", uint64(n)))
		}
		if err == nil {
			return total, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) || ctx.Err() != nil {
			return total, fmt.Errorf("cut connections: %w: %w", ErrUnavailable, err)
		}
	}
	return total, fmt.Errorf("cut connections: %w: the table never stood still", ErrUnavailable)
}

// flowsOf matches the flows of named addresses of the subnet, by either direction: behind NAT a capsule's
// address may be in one of them only.
type flowsOf struct {
	subnet  netip.Prefix
	gateway netip.Addr
	named   func(netip.Addr) bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP, flow.Reverse.DstIP} {
		a, ok := netip.AddrFromSlice(ip)
		if a = a.Unmap(); ok && a != f.gateway && f.subnet.Contains(a) && f.named(a) {
			return true
		}
	}
	return false
}
