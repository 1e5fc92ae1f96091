package firewall

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// bridgeChange is the transaction that makes the rules of the bridge table what they should be, and its elements
// those of hold, of which it has all that are there. Where the table is there, and its sets and hooks are of the
// right kind, only the chains that differ are written: a frame that is under way while a table is replaced by
// another looks into the sets of the old one, which are empty by then, and is lost.
func (o Options) bridgeChange(have bridgeState, hold elements, policies loadedSet) string {
	blocks := o.wantedBlocks(policies)
	if have.sameRules(blocks) {
		return elementText(have.elements, hold)
	}
	if !o.editable(have) {
		return o.bridgeText(hold, policies)
	}
	var text strings.Builder
	text.WriteString(elementText(have.elements, hold)) // first: an element may be all that leads to a chain
	say := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	var differ []nftChain
	for _, c := range o.bridgeChains(policies) { // a chain stands before those that go to it
		now, there := have.blocks["chain "+c.name]
		if there && slices.Equal(now, c.lines) {
			continue
		}
		if there {
			say("flush chain %s %s", bridgeTable, c.name)
		} else {
			say("add chain %s %s", bridgeTable, c.name)
		}
		differ = append(differ, c)
	}
	for _, c := range differ {
		for _, line := range c.lines {
			if !strings.HasPrefix(line, "type ") { // of a hook that is there
				say("add rule %s %s %s", bridgeTable, c.name, line)
			}
		}
	}
	var gone []string
	for name := range have.blocks {
		if _, ok := blocks[name]; !ok {
			gone = append(gone, strings.TrimPrefix(name, "chain "))
		}
	}
	slices.Sort(gone)
	for _, verb := range []string{"flush", "delete"} { // they may go to each other
		for _, name := range gone {
			say("%s chain %s %s", verb, bridgeTable, name)
		}
	}
	return text.String()
}

// editable says whether a table has our sets and hooks, and besides them nothing but chains.
func (o Options) editable(have bridgeState) bool {
	for _, s := range bridgeSets {
		if !slices.Equal(have.blocks[s.kind+" "+s.name], s.lines) {
			return false
		}
	}
	for _, c := range bridgeHooks {
		if now := have.blocks["chain "+c.name]; len(now) == 0 || now[0] != c.lines[0] {
			return false
		}
	}
	sets := slices.DeleteFunc(slices.Collect(maps.Keys(have.blocks)), func(name string) bool { return strings.HasPrefix(name, "chain ") })
	return len(sets) == len(bridgeSets)
}
