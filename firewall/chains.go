package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
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
	flows   *netlink.Handle // one that stays open, as tables does
	nft     bool            // iptables writes to nf_tables, so the generation tells of changes to either layer

	seen atomic.Pointer[view] // of want, for those who answer packets and cannot wait for a change to end

	mu      sync.Mutex // guards all below, and the kernel against ourselves: one change at a time
	want    wanted     // what should be
	applied bool       // Apply was called: want is the whole set, not what a fresh process happens to know
	unsure  bool       // a change went wrong: what the kernel has is not what we last gave it
	guarded bool       // GuardBridge was called: Verify looks at its settings too
	restore restorer   // for small changes of the IPv4 tables
	reading *reading   // what was last read back, nil if want is another since
	legacy  string     // the legacy tables that were last seen
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
		want: wanted{map[string]Binding{}, policies}, restore: restorer{program: ip4.restore},
	}
	c.show()
	runtime.AddCleanup(c, func(h *netlink.Handle) { h.Close() }, flows)
	return c, nil
}

// Close ends the iptables-restore that Put and Drop keep running. The rules stay, and c may be used again.
func (c *Chains) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restore.stop()
}

// Apply makes the kernel have the base rules and exactly these bindings, whatever it had of ours before. What
// is as it should be is not touched, so a second Apply changes nothing and a running capsule with an unchanged
// binding loses no packet. Bindings that changed or went are shut first and their connections cut; what is
// left of bindings that are gone is removed. On an error nothing is looser than before, and the set is
// remembered all the same: the next Put, Drop or Apply makes up for it.
func (c *Chains) Apply(ctx context.Context, all []Binding) error {
	defer c.metrics.time("apply")()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.opt.validateAll(all), validatePolicies(all, c.want.policies)); err != nil {
		return fmt.Errorf("firewall: apply: %w: %w", ErrInvalid, err)
	}
	before := c.want
	c.want, c.applied = wanted{map[string]Binding{}, before.policies}, true
	for _, b := range all {
		c.want.bindings[b.Tap] = b
	}
	if before.equal(c.want) && !c.unsure && c.stillRight(ctx) {
		return nil
	}
	return c.all(ctx, before, "apply")
}

// Reapply makes the kernel have once more what it was given last, for who cannot say what it should have now. Before the
// first Apply it returns ErrInvalid.
func (c *Chains) Reapply(ctx context.Context) error {
	defer c.metrics.time("reapply")()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.applied {
		return fmt.Errorf("firewall: reapply: %w: the whole set was never applied", ErrInvalid)
	}
	return c.all(ctx, c.want, "reapply")
}

// all makes the kernel have what is wanted, whatever it had before.
func (c *Chains) all(ctx context.Context, before wanted, verb string) error {
	generation, err := c.tables.generation()
	if err != nil {
		return c.settle(err, verb)
	}
	have, err := observe(ctx)
	if err == nil {
		if err = c.change(ctx, have, before); err != nil {
			err = errors.Join(err, c.retreat(ctx, have.bridge.elements, before))
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
func (c *Chains) Put(ctx context.Context, b Binding) error {
	defer c.metrics.time("put")()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.opt.validateAmong(b, c.want.bindings), validatePolicies([]Binding{b}, c.want.policies)); err != nil {
		return fmt.Errorf("firewall: put: %w: %w", ErrInvalid, err)
	}
	next, fallback := c.want.with(b), c.want
	if c.want.shuts(b.Tap, next) {
		fallback = c.want.with(c.want.bindings[b.Tap].closed())
	}
	return c.switchTo(ctx, b.Tap, next, fallback, "put "+b.Tap)
}

// Drop removes the binding of a tap, its chains and its connections; the tap may then speak to nobody. A tap
// without a binding is no error. If it fails, the binding stays as Closed.
func (c *Chains) Drop(ctx context.Context, tap string) error {
	defer c.metrics.time("drop")()
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.want.bindings[tap]
	if !had && c.applied && !c.unsure {
		return nil
	}
	fallback := c.want
	if had {
		fallback = c.want.with(old.closed())
	}
	return c.switchTo(ctx, tap, c.want.without(tap), fallback, fmt.Sprintf("drop %q", tap))
}

// switchTo goes from c.want to next, which is another for one tap at most, in one small change, or, where the
// kernel turns out not to have what we left there, in a whole one.
func (c *Chains) switchTo(ctx context.Context, tap string, next, fallback wanted, verb string) error {
	if !c.applied {
		return fmt.Errorf("firewall: %s: %w: the whole set was never applied", verb, ErrInvalid)
	}
	before := c.want
	c.want = next
	if !c.unsure && c.swap(ctx, tap, before, next) == nil {
		return c.settle(nil, verb)
	}
	have, err := observe(ctx)
	if err == nil {
		err = c.change(ctx, have, before)
	}
	if err != nil {
		// Also where the kernel could not be read: the small change may have opened the IP layer.
		err = errors.Join(err, c.retreat(ctx, elements{}, before))
		c.want = fallback
	}
	return c.settle(err, verb)
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
// over, a jump that is no longer first, and, once GuardBridge was called, settings that were changed. Nothing
// said means all is well; it changes nothing, and Apply repairs all but the settings. It may be called every
// few seconds: rules are read again only if anybody changed any since they were last read.
//
// Tables of iptables-legacy beside nf_tables are no difference, because they can open nothing that ours shut
// and Apply cannot repair them; they are logged and shown in the metrics.
func (c *Chains) Verify(ctx context.Context) ([]string, error) {
	defer c.metrics.time("verify")()
	c.mu.Lock()
	defer c.mu.Unlock()
	diffs, err := c.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	if c.guarded {
		wrong, err := c.wrongSettings()
		if err != nil {
			return nil, fmt.Errorf("firewall: verify: %w", err)
		}
		diffs = append(diffs, wrong...)
	}
	if err := c.watchLegacy(ctx); err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	c.metrics.differences.Set(float64(len(diffs)))
	return diffs, nil
}
