package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// ipTable is the filter table as iptables-save prints it.
type ipTable struct {
	policy map[string]string // of the built-in chains
	rules  map[string][]ipRule
}

// ipRule is one rule: what of it is understood, and whether there is more.
type ipRule struct {
	in, out  condition[string]
	from, to condition[netip.Prefix]
	more     bool // conditions that are not understood: it may match
	target   string
	goes     bool // the target is gone to (-g), not called
}

// condition is a value that must, or must not, be there.
type condition[T any] struct {
	value    T
	set, not bool
}

// readIPTables reads the output of iptables-save or ip6tables-save.
func readIPTables(text []byte) (ipTable, error) {
	t := ipTable{policy: map[string]string{}, rules: map[string][]ipRule{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) >= 2 && strings.HasPrefix(words[0], ":"):
			if words[1] != "-" {
				t.policy[words[0][1:]] = words[1]
			}
		case len(words) >= 2 && words[0] == "-A":
			r, err := readIPRule(words[2:])
			if err != nil {
				return t, fmt.Errorf("rig: rule %q: %w", lines.Text(), err)
			}
			t.rules[words[1]] = append(t.rules[words[1]], r)
		}
	}
	return t, lines.Err()
}

func readIPRule(words []string) (r ipRule, err error) {
	not := false
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "!":
			not = true
			continue
		case "-i":
			r.in = condition[string]{value, true, not}
		case "-o":
			r.out = condition[string]{value, true, not}
		case "-s", "-d":
			prefix, perr := netip.ParsePrefix(value)
			if perr != nil {
				return r, perr
			}
			if words[i] == "-s" {
				r.from = condition[netip.Prefix]{prefix, true, not}
			} else {
				r.to = condition[netip.Prefix]{prefix, true, not}
			}
		case "-j", "-g":
			r.target, r.goes = value, words[i] == "-g"
			return r, nil // what follows are options of the target
		default:
			r.more = true
			not = false
			continue
		}
		not = false
		i++
	}
	return r, nil
}

// ipPacket is a packet of which the way is known, and the domain's own address; the peer may be anybody.
type ipPacket struct {
	in, out  string // interfaces; "" where a packet has none
	from, to netip.Addr
}

// matches compares what is known. The other end may be anybody, so that a condition on it may hold.
func (r ipRule) matches(p ipPacket) match {
	result := yes
	if r.more {
		result = maybe
	}
	for _, c := range []struct {
		condition[string]
		name string
	}{{r.in, p.in}, {r.out, p.out}} {
		if c.set && sameInterface(c.value, c.name) == c.not {
			return no
		}
	}
	for _, c := range []struct {
		condition[netip.Prefix]
		address netip.Addr
	}{{r.from, p.from}, {r.to, p.to}} {
		switch {
		case !c.set:
		case !c.address.IsValid():
			result = min(result, maybe)
		case c.value.Contains(c.address) == c.not:
			return no
		}
	}
	return result
}

func sameInterface(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// bounds says whether a rule names the peer of a packet.
func (r ipRule) bounds(p ipPacket) bool {
	names := func(c condition[netip.Prefix], own netip.Addr) bool {
		return c.set && !c.not && !own.IsValid() && c.value.Bits() > 0
	}
	return (p.from.IsValid() || p.to.IsValid()) && (names(r.from, p.from) || names(r.to, p.to))
}

// fence judges what becomes of the packets of a domain: to the world and to the host, and back.
func (t ipTable) fence(bridge string, address netip.Addr) Fence {
	const elsewhere = "elsewhere"
	var all takings
	for chain, p := range map[string][]ipPacket{
		"FORWARD": {{in: bridge, out: elsewhere, from: address}, {in: elsewhere, out: bridge, to: address}},
		"INPUT":   {{in: bridge, from: address}},
		"OUTPUT":  {{out: bridge, to: address}},
	} {
		for _, p := range p {
			if t.walk(chain, p, false, &all, 0) && t.policy[chain] != "DROP" {
				all.fell = true
			}
		}
	}
	return all.fence()
}

// walk follows a packet through a chain and says whether it may come out at its end. What may be taken is noted.
func (t ipTable) walk(chain string, p ipPacket, bounded bool, all *takings, depth int) (falls bool) {
	const deepest = 64 // nothing of ours is as deep, and the kernel has no loops
	if depth > deepest {
		return true
	}
	for _, r := range t.rules[chain] {
		m := r.matches(p)
		if m == no {
			continue
		}
		in := bounded || r.bounds(p)
		ends := false // for a packet that matches
		switch r.target {
		case "ACCEPT":
			all.take(in)
			ends = true
		case "DROP", "REJECT":
			ends = true
		case "RETURN":
			falls, ends = true, true
		default:
			if _, ours := t.rules[r.target]; !ours {
				continue // MARK, LOG and their like; an empty chain
			}
			out := t.walk(r.target, p, in, all, depth+1)
			if ends = r.goes || !out; r.goes && out {
				falls = true
			}
		}
		if ends && m == yes {
			return falls
		}
	}
	return true
}
