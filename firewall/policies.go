package firewall

import (
	"context"

	"fmt"
	"net/netip"

	"github.com/capsuled/capsuled/firewall/policy"
)

// SetPolicies replaces the loaded policies. Bindings of a policy that says something else now are shut, their
// connections cut, and opened again under the new one; those of others lose no packet. It changes nothing and
// returns ErrInvalid if a policy cannot be compiled, or if one is missing that a binding names. If the host
// refuses, the policies are those from before, the bindings that were to change are Closed, and the next Apply or Put makes
// up for it. Before the first Apply it only notes the policies. It is idempotent.
func (c *Chains) SetPolicies(ctx context.Context, list []policy.Policy) error {
	defer c.metrics.time("policies")()
	policies, err := c.opt.load(list)
	if err != nil {
		return fmt.Errorf("firewall: policies: %w: %w", ErrInvalid, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := validatePolicies(c.want.all(), policies); err != nil {
		return fmt.Errorf("firewall: policies: %w: %w", ErrInvalid, err)
	}
	before := c.want
	c.want = wanted{before.bindings, policies}
	if !c.applied || before.equal(c.want) {
		c.show() // names and their addresses may be others
		return nil
	}
	next := c.want
	if err = c.all(ctx, before, "policies"); err == nil {
		return nil
	}
	for tap, b := range next.bindings {
		if before.shuts(tap, next) {
			c.want = c.want.with(b.closed())
		}
	}
	c.want.policies = before.policies // what failed does not come about by the next change
	c.metrics.count(c.want)
	c.show()
	return err
}

// view is what packets are answered by. It is never changed.
type view struct {
	bindings map[netip.Addr]Binding
	policies loadedSet
}

// show lets those see what is wanted who do not wait for changes.
func (c *Chains) show() {
	v := &view{make(map[netip.Addr]Binding, len(c.want.bindings)), c.want.policies}
	for _, b := range c.want.bindings {
		v.bindings[b.IP] = b
	}
	c.seen.Store(v)
}
