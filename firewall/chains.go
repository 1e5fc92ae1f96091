package firewall

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"sync"

	"github.com/coreos/go-iptables/iptables"
)

// Chains is the fence of one bridge.
type Chains struct {
	opt     Options
	metrics *metrics

	mu      sync.Mutex         // guards all below, and the kernel against ourselves: one change at a time
	want    map[string]Binding // by tap: what should be
	applied bool               // Apply was called: want is the whole set, not what a fresh process happens to know
	unsure  bool               // a change went wrong: what the kernel has is not what we last gave it
	guarded bool               // GuardBridge was called: Verify looks at its settings too
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
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, fmt.Errorf("firewall: metrics: %w: %w", ErrInvalid, err)
	}
	return &Chains{opt: opt, metrics: m, want: map[string]Binding{}}, nil
}

// Apply makes the kernel have the base rules and exactly these bindings, whatever it had of ours before. What
// is as it should be is not touched, so a second Apply changes nothing and a running capsule with an unchanged
// binding loses no packet. Bindings that changed or went are shut first and their connections cut; what is
// left of bindings that are gone is removed. On an error nothing is looser than before, and the set is
// remembered all the same: the next Put, Drop or Apply makes up for it.
func (c *Chains) Apply(ctx context.Context, all []Binding) error {
	defer c.metrics.time("apply")()
	if err := c.opt.validateAll(all); err != nil {
		return fmt.Errorf("firewall: apply: %w: %w", ErrInvalid, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.want
	c.want, c.applied = map[string]Binding{}, true
	for _, b := range all {
		c.want[b.Tap] = b
	}
	have, err := observe(ctx)
	if err == nil {
		if err = c.change(ctx, have, before); err != nil {
			err = errors.Join(err, c.retreat(ctx, have.bridge.elements, before))
		}
	}
	return c.settle(err, "apply")
}

// Put adds a binding or changes the one of the same tap. Entering a stricter policy, or changing the MAC,
// address or port, shuts the tap first and cuts its connections. It is idempotent. If it fails, the tap has no
// binding if it had none, what it had if that was not to be tightened, and is Closed otherwise. Before the
// first Apply it returns ErrInvalid: the rest of the set is not known, and would be dropped.
func (c *Chains) Put(ctx context.Context, b Binding) error {
	defer c.metrics.time("put")()
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.want[b.Tap]
	next := maps.Clone(c.want)
	next[b.Tap] = b
	if err := c.opt.validateAll(slices.Collect(maps.Values(next))); err != nil {
		return fmt.Errorf("firewall: put: %w: %w", ErrInvalid, err)
	}
	fallback := maps.Clone(c.want)
	if had && old.tightens(b) {
		fallback[b.Tap] = old.closed()
	}
	return c.switchTo(ctx, next, fallback, "put "+b.Tap)
}

// Drop removes the binding of a tap, its chains and its connections; the tap may then speak to nobody. A tap
// without a binding is no error. If it fails, the binding stays as Closed.
func (c *Chains) Drop(ctx context.Context, tap string) error {
	defer c.metrics.time("drop")()
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.want[tap]
	if !had && c.applied && !c.unsure {
		return nil
	}
	next, fallback := maps.Clone(c.want), maps.Clone(c.want)
	delete(next, tap)
	if had {
		fallback[tap] = old.closed()
	}
	return c.switchTo(ctx, next, fallback, fmt.Sprintf("drop %q", tap))
}

// switchTo goes from c.want to next in one small change, or, where the kernel turns out not to have what we
// left there, in a whole one.
func (c *Chains) switchTo(ctx context.Context, next, fallback map[string]Binding, verb string) error {
	if !c.applied {
		return fmt.Errorf("firewall: %s: %w: the whole set was never applied", verb, ErrInvalid)
	}
	before := c.want
	if !c.unsure {
		c.want = next
		if err := c.change(ctx, c.opt.expected(sorted(before)), before); err == nil {
			return c.settle(nil, verb)
		}
		c.want = before
	}
	c.want = next
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
	c.unsure = err != nil
	c.metrics.count(c.want)
	if err != nil {
		c.metrics.failures.Inc()
		return fmt.Errorf("firewall: %s: %w", verb, err)
	}
	return nil
}

// Verify reads the kernel and says in words what is not as it should be: rules missing, changed or left
// over, a jump that is no longer first, and, once GuardBridge was called, settings that were changed. Nothing
// said means all is well; it changes nothing, and Apply repairs all but the settings.
func (c *Chains) Verify(ctx context.Context) ([]string, error) {
	defer c.metrics.time("verify")()
	c.mu.Lock()
	defer c.mu.Unlock()
	have, err := observe(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: verify: %w", err)
	}
	all := sorted(c.want)
	diffs := have.bridge.differences(c.opt.compileBridge(all))
	diffs = append(diffs, ip4.differences(have.ip4, c.opt.compileIP4(all))...)
	diffs = append(diffs, ip6.differences(have.ip6, c.opt.compileIP6())...)
	if c.guarded {
		wrong, err := c.opt.unguarded()
		if err != nil {
			return nil, fmt.Errorf("firewall: verify: %w", err)
		}
		for _, s := range wrong {
			diffs = append(diffs, fmt.Sprintf("sysctl: %s is not %s", s.name, s.value))
		}
	}
	c.metrics.differences.Set(float64(len(diffs)))
	return diffs, nil
}

func sorted(set map[string]Binding) []Binding {
	return slices.SortedFunc(maps.Values(set), byTap)
}
