package firewall

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// bridgeState is a listing of the bridge table: the lines of each block but the elements, and the elements.
type bridgeState struct {
	blocks   map[string][]string // "chain input" -> its lines
	elements elements
	counts   map[string]map[string]Count // set -> element -> what its counter says
}

// parseBridge reads the output of "nft list table". Elements are compared as sets, for nft is
// free to order and to break them as it likes.
func parseBridge(text string) bridgeState {
	s := bridgeState{map[string][]string{}, elements{}, map[string]map[string]Count{}}
	var block string
	var list *strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		rest, isList := strings.CutPrefix(line, "elements = {")
		switch {
		case line == "" || strings.HasPrefix(line, "table "):
		case isList:
			list = &strings.Builder{}
			list.WriteString(rest)
		case list != nil:
			list.WriteString(" " + line)
		case block == "" && strings.HasSuffix(line, " {"):
			block = strings.TrimSuffix(line, " {")
			s.blocks[block] = nil
		case line == "}":
			block = ""
		default:
			s.blocks[block] = append(s.blocks[block], line)
		}
		if list != nil && strings.HasSuffix(line, "}") {
			_, name, _ := strings.Cut(block, " ")
			s.elements[name], s.counts[name] = splitElements(list.String())
			list = nil
		}
	}
	return s
}

func splitElements(list string) (map[string]bool, map[string]Count) {
	set, counts := map[string]bool{}, map[string]Count{}
	for el := range strings.SplitSeq(strings.TrimSuffix(list, "}"), ",") {
		el, count, counted := strings.Cut(strings.TrimSpace(el), " counter ")
		set[el] = true
		if f := strings.Fields(count); counted && len(f) == 4 { // packets 1 bytes 46
			counts[el] = parseCount(f[1], f[3])
		}
	}
	return set, counts
}

// wantedBlocks is what blocks should be.
func (o Options) wantedBlocks(policies loadedSet) map[string][]string {
	blocks := map[string][]string{}
	for _, s := range bridgeSets {
		blocks[s.kind+" "+s.name] = s.lines
	}
	for _, c := range o.bridgeChains(policies) {
		blocks["chain "+c.name] = c.lines
	}
	return blocks
}

// sameRules says whether all but the elements is as it should be.
func (s bridgeState) sameRules(blocks map[string][]string) bool {
	return maps.EqualFunc(s.blocks, blocks, slices.Equal)
}

// common is what both have: the state of the sets while a change is under way. A tap that is not wholly in it
// is shut, because its verdict or its addresses are missing.
func (e elements) common(other elements) elements {
	both := elements{}
	for _, s := range bridgeSets {
		both[s.name] = map[string]bool{}
		for el := range e[s.name] {
			if other[s.name][el] {
				both[s.name][el] = true
			}
		}
	}
	return both
}

func (e elements) equal(other elements) bool {
	for _, s := range bridgeSets {
		if !maps.Equal(e[s.name], other[s.name]) {
			return false
		}
	}
	return true
}

// differences says in words what is not as wanted.
func (s bridgeState) differences(want elements, blocks map[string][]string) []string {
	if s.blocks == nil {
		return []string{"bridge: table " + bridgeTable + " is missing"}
	}
	var diffs []string
	say := func(format string, args ...any) { diffs = append(diffs, "bridge: "+fmt.Sprintf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		now, ok := s.blocks[name]
		if !ok {
			say("%s is missing", name)
		} else if i := firstDifference(now, blocks[name]); i >= 0 {
			say("%s line %d is %q, should be %q", name, i+1, at(now, i), at(blocks[name], i))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.blocks)) {
		if _, ok := blocks[name]; !ok {
			say("%s is not ours", name)
		}
	}
	for _, set := range bridgeSets {
		for _, el := range slices.Sorted(maps.Keys(want[set.name])) {
			if !s.elements[set.name][el] {
				say("%s lacks %s", set.name, el)
			}
		}
		for _, el := range slices.Sorted(maps.Keys(s.elements[set.name])) {
			if !want[set.name][el] {
				say("%s has %s, which belongs to nothing", set.name, el)
			}
		}
	}
	return diffs
}
