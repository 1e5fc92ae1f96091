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
}

// parseBridge reads the output of "nft --stateless list table". Elements are compared as sets, for nft is
// free to order and to break them as it likes.
func parseBridge(text string) bridgeState {
	s := bridgeState{map[string][]string{}, elements{}}
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
			s.elements[name] = splitElements(list.String())
			list = nil
		}
	}
	return s
}

func splitElements(list string) map[string]bool {
	set := map[string]bool{}
	for el := range strings.SplitSeq(strings.TrimSuffix(list, "}"), ",") {
		set[strings.TrimSpace(el)] = true
	}
	return set
}

// wantedBlocks is what blocks should be.
func wantedBlocks() map[string][]string {
	blocks := map[string][]string{}
	for _, s := range bridgeSets {
		blocks[s.kind+" "+s.name] = []string{s.typ}
	}
	for _, c := range bridgeChains {
		lines := make([]string, len(c.lines))
		copy(lines, c.lines)
		blocks["chain "+c.name] = lines
	}
	return blocks
}

// sameRules says whether all but the elements is as it should be.
func (s bridgeState) sameRules() bool {
	return maps.EqualFunc(s.blocks, wantedBlocks(), slices.Equal)
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
func (s bridgeState) differences(want elements) []string {
	if s.blocks == nil {
		return []string{"bridge: table " + bridgeTable + " is missing"}
	}
	var diffs []string
	say := func(format string, args ...any) { diffs = append(diffs, "bridge: "+fmt.Sprintf(format, args...)) }
	blocks := wantedBlocks()
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
