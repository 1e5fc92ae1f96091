package firewall

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// family is one of iptables and ip6tables.
type family struct {
	label         string // how differences are named
	save, restore string // programs
}

var (
	ip4 = family{"ipv4", "iptables-save", "iptables-restore"}
	ip6 = family{"ipv6", "ip6tables-save", "ip6tables-restore"}
)

// observed is what the kernel has of ours in one table, and where our jumps stand.
type observed struct {
	chains chainSet
	jumps  map[jump]place
	counts map[string][]Count // of each rule of chains, if they were asked for
}

// place says where in a built-in chain a jump was found.
type place struct {
	count int
	first bool // one of them is the chain's first rule
}

func (p place) right() bool { return p.count == 1 && p.first }

// observe reads the kernel; with the option "-c" the counters as well.
func (f family) observe(ctx context.Context, options ...string) (map[string]observed, error) {
	text, err := command(ctx, "", append([]string{f.save}, options...)...)
	if err != nil {
		return nil, err
	}
	return parseSave(text), nil
}

// parseSave reads the output of iptables-save: our chains whole, of the others only rules that are exactly a
// jump to a chain of ours.
func parseSave(text string) map[string]observed {
	all := map[string]observed{}
	var now observed
	seen := map[string]bool{} // built-in chains that have a rule already
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		var count Count
		counted := strings.HasPrefix(line, "[") // [packets:bytes] -A ...
		if counted {
			var head string
			head, line, _ = strings.Cut(line, "] ")
			p, b, _ := strings.Cut(head[1:], ":")
			count = parseCount(p, b)
		}
		switch {
		case strings.HasPrefix(line, "*"):
			now = observed{chainSet{}, map[jump]place{}, map[string][]Count{}}
			all[line[1:]] = now
			clear(seen)
		case strings.HasPrefix(line, ":"+chainPrefix):
			name, _, _ := strings.Cut(line[1:], " ")
			now.chains[name] = nil
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			if strings.HasPrefix(name, chainPrefix) {
				now.chains[name] = append(now.chains[name], rule)
				if counted {
					now.counts[name] = append(now.counts[name], count)
				}
				continue
			}
			if target, ok := strings.CutPrefix(rule, "-j "); ok && strings.HasPrefix(target, chainPrefix) {
				p := now.jumps[jump{name, target}]
				now.jumps[jump{name, target}] = place{p.count + 1, p.first || !seen[name]}
			}
			seen[name] = true
		}
	}
	return all
}

// restoreText is the input of iptables-restore --noflush that turns what there is into what is wanted, and
// "" if nothing is to be done. One table is one transaction: chains, jumps, and the removal of what is left.
func restoreText(have map[string]observed, want ruleSet) string {
	var b strings.Builder
	for _, t := range want {
		t.write(&b, have[t.name])
	}
	return b.String()
}

func (t table) write(b *strings.Builder, have observed) {
	var changed, gone []string
	var edits strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.chains)) {
		now, ok := have.chains[name]
		switch {
		case !ok || !t.edited && !slices.Equal(now, t.chains[name]):
			changed = append(changed, name)
		case t.edited:
			edit(&edits, name, now, t.chains[name])
		}
	}
	for name := range have.chains {
		if _, ok := t.chains[name]; !ok {
			gone = append(gone, name)
		}
	}
	moved := slices.DeleteFunc(slices.Clone(t.jumps), func(j jump) bool { return have.jumps[j].right() })
	if len(changed)+len(gone)+len(moved)+edits.Len() == 0 {
		return
	}
	slices.Sort(gone)
	fmt.Fprintf(b, "*%s\n", t.name)
	for _, name := range slices.Concat(changed, gone) {
		fmt.Fprintf(b, ":%s - [0:0]\n", name) // makes it, or empties it
	}
	for _, name := range changed {
		for _, rule := range t.chains[name] {
			fmt.Fprintf(b, "-A %s %s\n", name, rule)
		}
	}
	b.WriteString(edits.String())
	for _, j := range moved {
		for range have.jumps[j].count {
			fmt.Fprintf(b, "-D %s -j %s\n", j.builtin, j.target)
		}
		fmt.Fprintf(b, "-I %s 1 -j %s\n", j.builtin, j.target)
	}
	for _, name := range gone {
		fmt.Fprintf(b, "-X %s\n", name)
	}
	b.WriteString("COMMIT\n")
}

// edit turns one list of rules into another by deleting and inserting what lies between their common beginning
// and their common end.
func edit(b *strings.Builder, chain string, have, want []string) {
	first := firstDifference(have, want)
	if first < 0 {
		return
	}
	h, w := len(have), len(want)
	for h > first && w > first && have[h-1] == want[w-1] {
		h, w = h-1, w-1
	}
	for _, rule := range have[first:h] {
		fmt.Fprintf(b, "-D %s %s\n", chain, rule)
	}
	for i, rule := range want[first:w] {
		fmt.Fprintf(b, "-I %s %d %s\n", chain, first+i+1, rule)
	}
}

// differences says in words what restoreText would repair.
func (f family) differences(have map[string]observed, want ruleSet) []string {
	var diffs []string
	say := func(table, format string, args ...any) {
		diffs = append(diffs, f.label+" "+table+": "+fmt.Sprintf(format, args...))
	}
	for _, t := range want {
		now := have[t.name]
		for _, name := range slices.Sorted(maps.Keys(t.chains)) {
			rules, ok := now.chains[name]
			if !ok {
				say(t.name, "chain %s is missing", name)
			} else if i := firstDifference(rules, t.chains[name]); i >= 0 {
				say(t.name, "chain %s rule %d is %q, should be %q", name, i+1, at(rules, i), at(t.chains[name], i))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(now.chains)) {
			if _, ok := t.chains[name]; !ok {
				say(t.name, "chain %s belongs to nothing", name)
			}
		}
		for _, j := range t.jumps {
			if p := now.jumps[j]; p.count == 0 {
				say(t.name, "%s does not jump to %s", j.builtin, j.target)
			} else if !p.right() {
				say(t.name, "the jump of %s to %s is not its first rule, or there twice", j.builtin, j.target)
			}
		}
	}
	return diffs
}

// firstDifference is the index of the first line that differs, -1 if none does.
func firstDifference(a, b []string) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// load gives the text to iptables-restore; "" is nothing to do.
func (f family) load(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	_, err := command(ctx, text, f.restore, "--noflush", "--wait", lockSeconds)
	return err
}

// byTap orders bindings so that texts do not depend on the order of calls.
func byTap(a, b Binding) int { return cmp.Compare(a.Tap, b.Tap) }
