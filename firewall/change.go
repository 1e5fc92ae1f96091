package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// state is all that the kernel has of ours.
type state struct {
	bridge   bridgeState
	ip4, ip6 map[string]observed
}

// observe reads the state from the kernel. The options are those of iptables-save: "-c" for counters.
func observe(ctx context.Context, options ...string) (state, error) {
	var s state
	var bridge, v4, v6 error
	var wg sync.WaitGroup
	wg.Go(func() { s.ip4, v4 = ip4.observe(ctx, options...) })
	wg.Go(func() { s.ip6, v6 = ip6.observe(ctx) })
	wg.Go(func() { s.bridge, bridge = observeBridge(ctx) })
	wg.Wait()
	return s, errors.Join(bridge, v4, v6)
}

// swap changes one binding, told by its tap, from what it is in before to what it is in after, and looks at
// nothing else. It takes for granted that the kernel has what before says, and fails where it notices that it
// has not: where our jumps, a chain, an element, a set or a table is gone. It is tighter before looser, as
// change is (what was not open needs no shutting), and puts the jumps of the filter table first again even if nothing else is to be done there: a
// tap must never be opened behind a table that somebody flushed.
func (c *Chains) swap(ctx context.Context, tap string, before, after wanted) error {
	old, had := before.bindings[tap]
	next, has := after.bindings[tap]
	var was, will []pin
	var touched []Binding
	if had {
		was, touched = c.opt.pins(old), append(touched, old)
	}
	if has {
		will, touched = c.opt.pins(next), append(touched, next)
	}
	gone := without(was, will)
	cut := func() error {
		if had && before.same(tap, after) {
			return nil
		}
		return c.cut(ctx, func(a netip.Addr) bool { return had && a == old.IP || has && a == next.IP })
	}
	load := func() error {
		err := c.loadSmall(ctx, c.opt.swapText(before, after, touched))
		if err != nil && has && after.forwarded(next) && (!before.forwarded(old) || old.IP != next.IP || old.SSHPort != next.SSHPort) {
			c.unforward(ctx, after, next)
		}
		return err
	}
	if had && (!has || before.shuts(tap, after)) {
		shut := slices.DeleteFunc(was, func(p pin) bool { return p.verdict == "" && !slices.ContainsFunc(gone, p.same) })
		if err := inTurn(func() error { return c.tables.change(ctx, shut, nil) }, load, cut); err != nil {
			return err
		}
		return c.tables.change(ctx, nil, will)
	}
	// Nothing of this binding passes the IP layer before it is loaded, nor the bridge layer until the end: there
	// is no connection that could begin behind the back of a cut that goes on meanwhile.
	var faults [2]error
	var wg sync.WaitGroup
	wg.Go(func() { faults[0] = cut() })
	faults[1] = load()
	wg.Wait()
	if err := errors.Join(faults[:]...); err != nil {
		return err
	}
	return c.tables.change(ctx, gone, will) // also what should be there already
}

func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// loadSmall changes the IPv4 tables by a text that stays small.
func (c *Chains) loadSmall(ctx context.Context, text string) error {
	if c.nft {
		return c.restore.load(ctx, text)
	}
	return ip4.load(ctx, text)
}

// swapText is the input of iptables-restore for swap.
//
// Whenever a rule with an extension is added (-m, DNAT), the kernel first waits until rules that were deleted
// before are freed, an RCU grace period later (nft_compat_wait_for_destructors). So the nat table comes first,
// and there only the one rule that changes: a change that adds the rule deletes none, and one that deletes it
// has nothing but DROP to add in the filter table. Which table is first means nothing to safety: the bridge
// layer is shut around both.
func (o Options) swapText(before, after wanted, touched []Binding) string {
	have := map[string]observed{"filter": {chainSet{}, map[jump]place{}, nil}, "nat": {chainSet{}, nil, nil}}
	o.compileBindings(before, touched, have["filter"].chains, have["nat"].chains)
	for _, j := range filterJumps {
		have["filter"].jumps[j] = place{count: 1}
	}
	filter, nat := chainSet{}, chainSet{}
	o.compileBindings(after, touched, filter, nat)
	return restoreText(have, ruleSet{{"nat", nat, nil, true}, {"filter", filter, filterJumps, false}})
}

// unforward takes the forwarded port of a binding away again, after a change of which the nat table may have
// been committed and the filter table was not. Should it fail too, the port leads to a binding that is closed.
func (c *Chains) unforward(ctx context.Context, after wanted, b Binding) {
	have, nat := map[string]observed{"nat": {chainSet{}, nil, nil}}, chainSet{}
	c.opt.compileBindings(after, []Binding{b}, chainSet{}, have["nat"].chains)
	c.opt.compileBindings(after.without(b.Tap), []Binding{b}, chainSet{}, nat)
	text := restoreText(have, ruleSet{{"nat", nat, nil, true}})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retreatTime)
	defer cancel()
	if err := ip4.load(ctx, text); err != nil {
		c.opt.Log.LogAttrs(ctx, slog.LevelDebug, "forwarded port not taken away, it was hardly there", slog.Any("error", err))
	}
}

// change goes from have to c.want: tighter before looser. The bridge layer first keeps only what is the same
// before and after; then the IP layer changes; then the connections of all others are cut; then the bridge
// layer opens. It returns what the bridge layer keeps all the while, also on an error: what is not in it was to be shut.
func (c *Chains) change(ctx context.Context, have state, before wanted) (hold elements, err error) {
	want := c.opt.compileBridge(c.want)
	hold = want.common(have.bridge.elements)
	shuts := false
	for tap := range before.bindings {
		if before.shuts(tap, c.want) {
			hold.shut(tap)
			shuts = true
		}
	}
	rules := c.opt.compileIP4(c.want)
	c.altered(hold, have, rules, before)
	if err := loadBridge(ctx, c.opt.bridgeChange(have.bridge, hold, c.want.policies)); err != nil {
		return hold, err
	}
	if err := ip6.load(ctx, restoreText(have.ip6, c.opt.compileIP6())); err != nil {
		return hold, err
	}
	if err := ip4.load(ctx, restoreText(have.ip4, rules)); err != nil {
		return hold, err
	}
	// Also where the kernel has nothing of it any more: a small change that went wrong may have come that far, and not to
	// the cut.
	if shuts || !hold.equal(have.bridge.elements) || !hold.equal(want) {
		if err := c.cut(ctx, c.changed(hold)); err != nil {
			return hold, err
		}
	}
	return hold, loadBridge(ctx, elementText(hold, want))
}

// altered shuts in hold the bindings that a process before this one knew otherwise: the same address of the
// same tap, but by the rules in the kernel another port, another policy, or one that says something else. What this process knew itself is not
// looked at: rules that somebody took away do not make it another binding.
func (c *Chains) altered(hold elements, have state, want ruleSet, before wanted) {
	now := forwards(have.ip4["nat"].chains)
	var filter, nat chainSet
	for _, t := range want {
		switch t.name {
		case "filter":
			filter = t.chains
		case "nat":
			nat = t.chains
		}
	}
	next := forwards(nat)
	otherwise := map[string]bool{Closed: false}
	for name, p := range c.want.policies {
		otherwise[name] = !p.in(have)
	}
	for tap, b := range c.want.bindings {
		if _, known := before.bindings[tap]; known {
			continue
		}
		same := !otherwise[b.Policy] && slices.Equal(now[b.IP.String()], next[b.IP.String()])
		for _, part := range []string{"-h", "-o", "-i"} {
			name := chainPrefix + tap + part
			same = same && slices.Equal(have.ip4["filter"].chains[name], filter[name])
		}
		if !same {
			hold.shut(tap)
		}
	}
}

// in says whether the kernel has the policy's chains as they should be, in both layers.
func (l loaded) in(have state) bool {
	for name, rules := range l.filter {
		if !slices.Equal(have.ip4["filter"].chains[name], rules) {
			return false
		}
	}
	for _, c := range l.bridge {
		if !slices.Equal(have.bridge.blocks["chain "+c.name], c.lines) {
			return false
		}
	}
	return true
}

// forwards are the rules of ours that forward a port to ssh, by the address that they forward to.
func forwards(nat chainSet) map[string][]string {
	to := map[string][]string{}
	for _, rules := range nat {
		for _, r := range rules {
			if _, end, ok := strings.Cut(r, " -j DNAT --to-destination "); ok {
				address, _, _ := strings.Cut(end, ":")
				to[address] = append(to[address], r)
			}
		}
	}
	return to
}

// changed says of an address whether its connections are to be cut: all but those of open bindings that hold
// leaves as they were.
func (c *Chains) changed(hold elements) func(netip.Addr) bool {
	keep := map[netip.Addr]bool{}
	for _, b := range c.want.bindings {
		keep[b.IP] = b.Policy != Closed && hold.holds(c.opt.pins(b))
	}
	return func(a netip.Addr) bool { return !keep[a] }
}

// retreat makes the IP layer no looser than it was, after a change that went wrong: what had not been the
// same before is closed there as well as in the bridge layer. Its links go down first, which needs no rule.
func (c *Chains) retreat(ctx context.Context, have elements, before wanted) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retreatTime)
	defer cancel()
	c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "rules not changed, closing what was to change")
	held := wanted{map[string]Binding{}, c.want.policies}
	for tap, b := range c.want.bindings {
		old, had := before.bindings[tap]
		if had && before.same(tap, c.want) || !had && have.holds(c.opt.pins(b)) {
			held.bindings[tap] = b
		} else if had {
			held.bindings[tap] = old.closed()
		}
	}
	down := c.links.lowerOthers(held.up)
	now, err := ip4.observe(ctx)
	if err == nil {
		err = ip4.load(ctx, restoreText(now, c.opt.compileIP4(held)))
	}
	if err = errors.Join(down, err); err != nil {
		return fmt.Errorf("retreat: %w", err)
	}
	return nil
}

// shut takes from a tap its verdicts, so that the rule for taps without a binding drops all it sends or gets.
func (e elements) shut(tap string) {
	for _, set := range []string{"from", "to"} {
		maps.DeleteFunc(e[set], func(el string, _ bool) bool { return len(el) > len(tap)+2 && el[1:len(tap)+2] == tap+`"` })
	}
}

// holds says whether all of some elements are among e.
func (e elements) holds(some []pin) bool {
	return !slices.ContainsFunc(some, func(p pin) bool { return !e[p.set][p.text] })
}
