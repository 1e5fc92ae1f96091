package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/capsuled/capsuled/firewall/policy"
)

// SetPolicies replaces the loaded policies. Bindings of a policy that says something else now are shut, their
// connections cut, and opened again under the new one; those of others lose no packet. It changes nothing and
// returns ErrInvalid if a policy cannot be compiled, or if one is missing that a binding names. If the host
// refuses, the policies are those of before, and the bindings that were to change are Closed until the next Apply or
// Put. Before the first Apply it only notes the policies. It is idempotent.
func (c *Chains) SetPolicies(ctx context.Context, list []policy.Policy) error {
	defer c.metrics.time("policies")()
	policies, err := c.opt.load(list)
	if err != nil {
		return fmt.Errorf("firewall: policies: %w: %w", ErrInvalid, err)
	}
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: policies: %w", err)
	}
	defer done()
	if err := validatePolicies(c.want.all(), policies); err != nil {
		return fmt.Errorf("firewall: policies: %w: %w", ErrInvalid, err)
	}
	before, next := c.want, wanted{c.want.bindings, policies}
	c.want = next
	if !c.applied {
		c.show()
		return nil
	}
	if err = c.whole(ctx, before, "policies"); err == nil {
		return nil
	}
	// Whoever asked is told that the new ones were refused: nobody may put them in force later.
	c.want = before
	for tap, b := range before.bindings {
		if before.shuts(tap, next) {
			c.want = c.want.with(b.closed())
		}
	}
	c.unsure, c.reading = true, nil
	c.metrics.count(c.want)
	c.show()
	return errors.Join(err, c.links.lowerOthers(c.want.up))
}

// view is what is wanted, for packets that are answered and links that are guarded meanwhile. It is never changed.
type view struct {
	wanted
	applied   bool
	addresses map[netip.Addr]Binding
}

// show lets those see what is wanted who do not wait for changes.
func (c *Chains) show() {
	v := &view{c.want, c.applied, make(map[netip.Addr]Binding, len(c.want.bindings))}
	for _, b := range c.want.bindings {
		v.addresses[b.IP] = b
	}
	c.seen.Store(v)
}
