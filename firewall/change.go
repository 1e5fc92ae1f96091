package firewall

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
)

// state is all that the kernel has of ours.
type state struct {
	bridge   bridgeState
	ip4, ip6 map[string]observed
}

// observe reads the state from the kernel.
func observe(ctx context.Context) (state, error) {
	var s state
	var err error
	if s.bridge, err = observeBridge(ctx); err != nil {
		return state{}, err
	}
	if s.ip4, err = ip4.observe(ctx); err != nil {
		return state{}, err
	}
	s.ip6, err = ip6.observe(ctx)
	return s, err
}

// expected is the state that a finished change left. The jumps of the filter table are marked as moved: each
// small change puts them first again, in the same transaction, and fails if somebody took them away.
func (o Options) expected(all []Binding) state {
	s := state{
		bridge: bridgeState{wantedBlocks(), o.compileBridge(all)},
		ip4:    map[string]observed{}, ip6: map[string]observed{},
	}
	for _, t := range o.compileIP4(all) {
		s.ip4[t.name] = t.settled()
		if t.name == "filter" {
			for j := range s.ip4[t.name].jumps {
				s.ip4[t.name].jumps[j] = place{count: 1}
			}
		}
	}
	for _, t := range o.compileIP6() {
		s.ip6[t.name] = t.settled()
	}
	return s
}

// change goes from have to c.want: tighter before looser. The bridge layer first keeps only what is the same
// before and after; then the IP layer changes; then the connections of all others are cut; then the bridge
// layer opens.
func (c *Chains) change(ctx context.Context, have state, before map[string]Binding) error {
	all := sorted(c.want)
	want := c.opt.compileBridge(all)
	hold := want.common(have.bridge.elements)
	for tap, b := range before {
		if next, ok := c.want[tap]; ok && b.tightens(next) {
			hold.shut(tap)
		}
	}
	text := elementText(have.bridge.elements, hold)
	if !have.bridge.sameRules() {
		text = bridgeText(hold)
	}
	if err := loadBridge(ctx, text); err != nil {
		return err
	}
	if err := ip6.load(ctx, restoreText(have.ip6, c.opt.compileIP6())); err != nil {
		return err
	}
	if err := ip4.load(ctx, restoreText(have.ip4, c.opt.compileIP4(all))); err != nil {
		return err
	}
	if !hold.equal(have.bridge.elements) || !hold.equal(want) {
		if err := c.cut(ctx, c.unchanged(hold)); err != nil {
			return err
		}
	}
	return loadBridge(ctx, elementText(hold, want))
}

// unchanged are the addresses of open bindings that hold leaves as they were: their connections live on.
func (c *Chains) unchanged(hold elements) map[netip.Addr]bool {
	keep := map[netip.Addr]bool{}
	for _, b := range c.want {
		keep[b.IP] = b.Policy != Closed && hold.holds(c.opt.pins(b))
	}
	return keep
}

// retreat makes the IP layer no looser than it was, after a change that went wrong: what had not been the
// same before is closed there as well as in the bridge layer.
func (c *Chains) retreat(ctx context.Context, have elements, before map[string]Binding) error {
	ctx = context.WithoutCancel(ctx)
	c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "rules not changed, closing what was to change")
	held := map[string]Binding{}
	for tap, b := range c.want {
		old, had := before[tap]
		if had && old.equal(b) || !had && have.holds(c.opt.pins(b)) {
			held[tap] = b
		} else if had {
			held[tap] = old.closed()
		}
	}
	now, err := ip4.observe(ctx)
	if err != nil {
		return fmt.Errorf("retreat: %w", err)
	}
	if err := ip4.load(ctx, restoreText(now, c.opt.compileIP4(sorted(held)))); err != nil {
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
func (e elements) holds(some [][2]string) bool {
	return !slices.ContainsFunc(some, func(p [2]string) bool { return !e[p[0]][p[1]] })
}
