package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Chains is the fence of one bridge.
type Chains struct {
	opt     Options
	metrics *metrics
	tables  *nfTables
	flows   flowTable // a netlink.Handle that stays open, as tables does
	nft     bool      // iptables writes to nf_tables, so the generation tells of changes to either layer
	links   linkLayer

	seen atomic.Pointer[view] // of want, for those who cannot wait for a change to end

	mu      lock     // guards all below, and the rules against ourselves: one change at a time
	want    wanted   // what should be
	applied bool     // Apply was called: want is the whole set, not what a fresh process happens to know
	unsure  bool     // a change went wrong: what the kernel has is not what we last gave it
	guarded bool     // GuardBridge was called: there was a bridge, and one that is gone is a difference
	restore restorer // for small changes of the IPv4 tables
	reading *reading // what was last read back, nil if want is another since
	legacy  string   // the legacy tables that were last seen
}

// programs are what the package runs, besides the iptables that go-iptables asks for its version.
var programs = []string{
	ip4.save, ip4.restore, ip6.save, ip6.restore, "nft",
}

// New checks the options and that the programs are there, and changes nothing. Faults of the options are
// ErrInvalid, all told at once; a missing or too old program is ErrUnavailable.
func New(opt Options) (*Chains, error) {
	if err := opt.validate(); err != nil {
		return nil, fmt.Errorf("firewall: options: %w: %w", ErrInvalid, err)
	}
	policies, err := opt.load(opt.Policies)
	if err != nil {
		return nil, fmt.Errorf("firewall: options: %w: %w", ErrInvalid, err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return nil, fmt.Errorf("firewall: %w: %w", ErrUnavailable, err)
		}
	}
	for _, proto := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		ipt, err := iptables.New(iptables.IPFamily(proto))
		if err != nil {
			return nil, fmt.Errorf("firewall: iptables version: %w: %w", ErrUnavailable, err)
		}
		// 1.8.7 is the first to list the chains of both backends in one order, and to print what we print.
		if a, b, c := ipt.GetIptablesVersion(); a<<16|b<<8|c < 1<<16|8<<8|7 {
			return nil, fmt.Errorf("firewall: iptables %d.%d.%d: %w: older than 1.8.7", a, b, c, ErrUnavailable)
		}
	}
	tables, err := openNFTables()
	if err != nil {
		return nil, fmt.Errorf("firewall: netlink: %w: %w", ErrUnavailable, err)
	}
	flows, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("firewall: netlink: %w: %w", ErrUnavailable, err)
	}
	links, err := openLinks(opt.Bridge)
	if err != nil {
		return nil, fmt.Errorf("firewall: netlink: %w: %w", ErrUnavailable, err)
	}
	nft, err := usesNFTables(ip4.save, ip6.save)
	if err != nil {
		return nil, fmt.Errorf("firewall: iptables backend: %w", err)
	}
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, fmt.Errorf("firewall: metrics: %w: %w", ErrInvalid, err)
	}
	c := &Chains{
		opt: opt, metrics: m, tables: tables, flows: flows, nft: nft,
		links: linkLayer{links: links, shut: map[string]uint64{}}, mu: make(lock, 1),
		want: wanted{map[string]Binding{}, policies}, restore: restorer{program: ip4.restore},
	}
	c.show()
	runtime.AddCleanup(c, func(h *netlink.Handle) { h.Close() }, flows)
	return c, nil
}

// Close ends the iptables-restore that Put and Drop keep running. The rules stay, and c may be used again.
func (c *Chains) Close() {
	if c.mu.take(context.Background()) == nil {
		defer c.mu.release()
		c.restore.stop()
	}
}

// Apply makes the kernel have the base rules and exactly these bindings, whatever it had of ours before. What
// is as it should be is not touched, so a second Apply changes nothing and a running capsule with an unchanged
// binding loses no packet. Bindings that changed or went are shut first and their connections cut; what is
// left of bindings that are gone is removed. Taps that nothing may pass, and those of nobody, are taken down before
// any rule changes; the others are taken up when all rules are in force. On an error nothing is looser than before,
// and the set is remembered all the same: the next Put, Drop or Apply makes up for it. Only where ctx ends while
// another change is under way, nothing was done at all.
func (c *Chains) Apply(ctx context.Context, all []Binding) error {
	defer c.metrics.time("apply")()
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: apply: %w", err)
	}
	defer done()
	if err := errors.Join(c.opt.validateAll(all), validatePolicies(all, c.want.policies)); err != nil {
		return fmt.Errorf("firewall: apply: %w: %w", ErrInvalid, err)
	}
	before := c.want
	c.want, c.applied = wanted{map[string]Binding{}, before.policies}, true
	for _, b := range all {
		c.want.bindings[b.Tap] = b
	}
	return c.whole(ctx, before, "apply")
}

// whole goes from before to c.want in all layers, whatever the kernel has.
func (c *Chains) whole(ctx context.Context, before wanted, verb string) error {
	number := c.links.call()
	down := c.links.lowerOthers(c.want.up)
	if before.equal(c.want) && !c.unsure && c.stillRight(ctx) {
		c.show() // names and their addresses may be others
	} else if err := c.all(ctx, before, verb); err != nil {
		return errors.Join(err, down)
	}
	if err := errors.Join(down, c.links.raise(number, c.want.ups()...)); err != nil {
		c.metrics.failures.Inc()
		return fmt.Errorf("firewall: %s: %w", verb, err)
	}
	return nil
}

// Reapply makes the kernel have once more what it was given last, for who cannot say what it should have now. Before the
// first Apply it returns ErrInvalid.
func (c *Chains) Reapply(ctx context.Context) error {
	defer c.metrics.time("reapply")()
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: reapply: %w", err)
	}
	defer done()
	if !c.applied {
		return fmt.Errorf("firewall: reapply: %w: the whole set was never applied", ErrInvalid)
	}
	return c.whole(ctx, c.want, "reapply")
}

// all makes the kernel have what is wanted, whatever it had before.
func (c *Chains) all(ctx context.Context, before wanted, verb string) error {
	generation, err := c.tables.generation()
	if err != nil {
		return c.settle(err, verb)
	}
	have, err := observe(ctx)
	if err == nil {
		var held elements
		if held, err = c.change(ctx, have, before); err != nil {
			err = errors.Join(err, c.retreat(ctx, held, before))
		}
	}
	err = c.settle(err, verb)
	if now, unread := c.tables.generation(); err == nil && unread == nil && c.nft && now == generation {
		c.reading = &reading{generation: generation} // there was nothing to change
	}
	return err
}

// Put adds a binding or changes the one of the same tap. Any change of a binding that is not Closed shuts the tap
// first and cuts its connections. It is idempotent. If it fails, the tap has no binding if it had none, and what
// it had if that is the same or Closed; otherwise it is Closed. A policy that is not loaded is ErrInvalid. Before the
// first Apply it returns ErrInvalid: the rest of the set is not known, and would be dropped.
//
// The link is set whether or not anything else changes: libvirt makes a tap that is up. A tap that nothing may pass is
// taken down at once, before its turn to change rules, and stays down if they cannot be changed; the error says so. One
// that something may pass is taken up when its rules are in force.
func (c *Chains) Put(ctx context.Context, b Binding) (err error) {
	defer c.metrics.time("put")()
	if now := c.seen.Load(); now.applied && c.valid(b, now.wanted) == nil && !now.with(b).up(b.Tap) {
		_, _ = c.links.lower(b.Tap) // a fault is told below
		defer func() { err = c.closedAnyway(b.Tap, err) }()
	}
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: put %s: %w", b.Tap, err)
	}
	defer done()
	if err := c.valid(b, c.want); err != nil {
		return fmt.Errorf("firewall: put: %w: %w", ErrInvalid, err)
	}
	next, fallback := c.want.with(b), c.want
	if c.want.shuts(b.Tap, next) {
		fallback = c.want.with(c.want.bindings[b.Tap].closed())
	}
	return c.switchTo(ctx, b.Tap, next, fallback, "put "+b.Tap)
}

// valid checks a binding that comes to others.
func (c *Chains) valid(b Binding, others wanted) error {
	return errors.Join(c.opt.validateAmong(b, others.bindings), validatePolicies([]Binding{b}, others.policies))
}

// Drop removes the binding of a tap, its chains and its connections; the tap may then speak to nobody, and is down if
// it is there. A tap without a binding is no error. If it fails, the binding stays as Closed, and the tap is down all
// the same.
func (c *Chains) Drop(ctx context.Context, tap string) (err error) {
	defer c.metrics.time("drop")()
	if c.seen.Load().applied && validTap(tap) {
		_, _ = c.links.lower(tap) // a fault is told below
		defer func() { err = c.closedAnyway(tap, err) }()
	}
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: drop %q: %w", tap, err)
	}
	defer done()
	old, had := c.want.bindings[tap]
	verb := fmt.Sprintf("drop %q", tap)
	if !had && c.applied && !c.unsure {
		if validTap(tap) {
			if _, err = c.links.lower(tap); err != nil {
				err = fmt.Errorf("firewall: %s: %w", verb, err)
			}
		}
	} else {
		fallback := c.want
		if had {
			fallback = c.want.with(old.closed())
		}
		err = c.switchTo(ctx, tap, c.want.without(tap), fallback, verb)
	}
	if err == nil {
		c.links.forget(tap)
	}
	return err
}

// Shut takes the link of a tap down at once, whatever other change is under way, and no rule: for who is about to Put it
// as Closed and has to wait for something. The next call that opens the tap, or finds that it should be open, takes it
// up. No tap is no error.
func (c *Chains) Shut(tap string) error {
	if !validTap(tap) {
		return fmt.Errorf("firewall: shut: %w: %q is no tap's name", ErrInvalid, tap)
	}
	if _, err := c.links.lower(tap); err != nil {
		return fmt.Errorf("firewall: shut: %w", err)
	}
	return nil
}

// closedAnyway ends a call that was to close a tap and could not: its link is down at the end, and the error says so.
func (c *Chains) closedAnyway(tap string, err error) error {
	if err == nil || errors.Is(err, ErrInvalid) {
		return err
	}
	switch now, fault := c.links.lower(tap); {
	case fault != nil:
		return errors.Join(err, fmt.Errorf("firewall: %w", fault))
	case now == NoLink:
		return fmt.Errorf("%w; there is no link %s", err, tap)
	}
	return fmt.Errorf("%w; the link of %s is down all the same, so that nothing passes", err, tap)
}

// begin waits until no other change is under way, or ctx ends; from then on a call has commandTime.
func (c *Chains) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	if err := c.mu.take(ctx); err != nil {
		return ctx, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	return ctx, func() { cancel(); c.mu.release() }, nil
}

// switchTo goes from c.want to next, which is another for one tap at most, in one small change, or, where the
// kernel turns out not to have what we left there, in a whole one.
func (c *Chains) switchTo(ctx context.Context, tap string, next, fallback wanted, verb string) error {
	if !c.applied {
		return fmt.Errorf("firewall: %s: %w: the whole set was never applied", verb, ErrInvalid)
	}
	number := c.links.call()
	before := c.want
	c.want = next
	var down error
	if !next.up(tap) && validTap(tap) { // again: a call that is over by now may have taken it up
		_, down = c.links.lower(tap)
	}
	err := c.swapOrChange(ctx, tap, before)
	if err != nil {
		// Also where the kernel could not be read: the small change may have opened the IP layer.
		err = errors.Join(err, c.retreat(ctx, elements{}, before))
		c.want = fallback
	}
	if err = c.settle(errors.Join(err, down), verb); err != nil || !next.up(tap) {
		return err
	}
	if err = c.links.raise(number, tap); err != nil { // it is closed by its link: let it be so everywhere
		c.want = next.with(next.bindings[tap].closed())
		return c.settle(err, verb)
	}
	return nil
}

func (c *Chains) swapOrChange(ctx context.Context, tap string, before wanted) error {
	if !c.unsure && c.swap(ctx, tap, before, c.want) == nil {
		return nil
	}
	have, err := observe(ctx)
	if err != nil {
		return err
	}
	_, err = c.change(ctx, have, before)
	return err
}

// settle notes how a change ended.
func (c *Chains) settle(err error, verb string) error {
	c.unsure, c.reading = err != nil, nil
	c.metrics.count(c.want)
	c.show()
	if err != nil {
		c.metrics.failures.Inc()
		return fmt.Errorf("firewall: %s: %w", verb, err)
	}
	return nil
}

// Verify reads the kernel and says in words what is not as it should be: rules missing, changed or left
// over, a jump that is no longer first, a link that is up or down and should not be, a tap of the bridge that is not
// isolated, and settings that GuardBridge would change, or, once it was called, a bridge that is gone. Nothing said means
// that all is well, but for taps that are not on the bridge: those are down, and only Evidence tells of them, for nothing
// here can mend that. It changes nothing, and Apply repairs all but the settings. It may be called every few seconds: rules are read again only if anybody changed any since they were last
// read.
//
// Tables of iptables-legacy beside nf_tables are no difference, because they can open nothing that ours shut
// and Apply cannot repair them; they are logged and shown in the metrics.
func (c *Chains) Verify(ctx context.Context) ([]string, error) {
	defer c.metrics.time("verify")()
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	defer done()
	diffs, err := c.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	links, err := c.wrongLinks(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	wrong, err := c.wrongSettings()
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	diffs = slices.Concat(diffs, links, wrong)
	if err := c.watchLegacy(ctx); err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	c.metrics.differences.Set(float64(len(diffs)))
	return diffs, nil
}
