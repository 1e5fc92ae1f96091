package rig

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// bridgeTable is an nftables table as "nft -j list table" prints it (libnftables-json(5)).
type bridgeTable struct {
	hooks map[string]string                         // hook -> chain
	rules map[string][][]map[string]json.RawMessage // chain -> rules -> statements
	maps  map[string]map[string]verdict             // map -> key -> verdict
}

// verdict is what a rule, or an element of a map, says: "accept", "drop", "return", "jump" or "goto" a chain.
type verdict struct{ word, chain string }

// readBridge reads one table.
func readBridge(text []byte) (bridgeTable, error) {
	t := bridgeTable{map[string]string{}, map[string][][]map[string]json.RawMessage{}, map[string]map[string]verdict{}}
	var whole struct {
		NFTables []struct {
			Chain *struct{ Name, Hook string }
			Map   *struct {
				Name string
				Elem [][2]json.RawMessage
			}
			Rule *struct {
				Chain string
				Expr  []map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(text, &whole); err != nil {
		return t, fmt.Errorf("rig: nft: %w", err)
	}
	for _, o := range whole.NFTables {
		switch {
		case o.Chain != nil && o.Chain.Hook != "":
			t.hooks[o.Chain.Hook] = o.Chain.Name
		case o.Rule != nil:
			t.rules[o.Rule.Chain] = append(t.rules[o.Rule.Chain], o.Rule.Expr)
		case o.Map != nil:
			elements := map[string]verdict{}
			for _, e := range o.Map.Elem {
				var key string
				var says map[string]json.RawMessage
				if json.Unmarshal(e[0], &key) == nil && json.Unmarshal(e[1], &says) == nil {
					elements[key], _ = readVerdict(says)
				}
			}
			t.maps[o.Map.Name] = elements
		}
	}
	return t, nil
}

// readVerdict finds the verdict in a statement.
func readVerdict(statement map[string]json.RawMessage) (verdict, bool) {
	for _, word := range []string{"accept", "drop", "return"} {
		if _, ok := statement[word]; ok {
			return verdict{word, ""}, true
		}
	}
	for _, word := range []string{"jump", "goto"} {
		var to struct{ Target string }
		if b, ok := statement[word]; ok && json.Unmarshal(b, &to) == nil {
			return verdict{word, to.Target}, true
		}
	}
	return verdict{}, false
}

// frame is a frame of which the port is known, and what it carries; addresses and all else may be anything.
type frame struct {
	tap      string
	outgoing bool   // to the domain
	carries  string // "ip" or "ip6"
}

// fence judges what becomes of the frames of a domain that carry IPv4 or IPv6. ARP tells nobody anything that it does
// not know, and is not looked at.
func (t bridgeTable) fence(tap string) Fence {
	var all takings
	for _, carries := range []string{"ip", "ip6"} {
		for hook, outgoing := range map[string]bool{"prerouting": false, "output": true} {
			if t.walk(t.hooks[hook], frame{tap, outgoing, carries}, false, &all, 0) {
				all.fell = true
			}
		}
	}
	return all.fence()
}

// walk follows a frame through a chain and says whether it may come out at its end. What may be taken is noted.
func (t bridgeTable) walk(chain string, f frame, bounded bool, all *takings, depth int) (falls bool) {
	const deepest = 64
	if depth > deepest {
		return true
	}
	for _, rule := range t.rules[chain] {
		m, in := yes, bounded
		var says verdict
		for _, statement := range rule {
			if b, ok := statement["match"]; ok {
				how, bounds := f.matches(b)
				m, in = min(m, how), in || bounds
			} else if b, ok := statement["vmap"]; ok {
				says = t.lookup(b, f)
			} else if v, ok := readVerdict(statement); ok {
				says = v
			}
		}
		if m == no {
			continue
		}
		ends := false
		switch says.word {
		case "accept":
			all.take(in)
			ends = true
		case "drop":
			ends = true
		case "return":
			falls, ends = true, true
		case "jump", "goto":
			goes := says.word == "goto"
			out := t.walk(says.chain, f, in, all, depth+1)
			if ends = goes || !out; goes && out {
				falls = true
			}
		}
		if ends && m == yes {
			return falls
		}
	}
	return true
}

// lookup finds the verdict of a map for the port of a frame; none when it is another port's.
func (t bridgeTable) lookup(b json.RawMessage, f frame) verdict {
	var v struct {
		Key  field
		Data string
	}
	if json.Unmarshal(b, &v) != nil || v.Key.Meta.Key != f.portKey() {
		return verdict{}
	}
	return t.maps[strings.TrimPrefix(v.Data, "@")][f.tap]
}

// portKey is what the frame's own port is called in rules.
func (f frame) portKey() string {
	if f.outgoing {
		return "oifname"
	}
	return "iifname"
}

// field is the left side of a match.
type field struct {
	Meta    struct{ Key string }
	Payload struct{ Protocol, Field string }
}

// matches compares what is known of a frame, and says whether the match names its peer.
func (f frame) matches(b json.RawMessage) (how match, bounds bool) {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	var left field
	if json.Unmarshal(b, &m) != nil || json.Unmarshal(m.Left, &left) != nil {
		return maybe, false
	}
	known := func(is bool) match {
		if is == (m.Op == "!=") {
			return no
		}
		return yes
	}
	var right string
	text := json.Unmarshal(m.Right, &right) == nil
	switch {
	case text && left.Payload.Protocol == "ether" && left.Payload.Field == "type", text && left.Meta.Key == "protocol":
		return known(right == f.carries), false
	case left.Meta.Key == f.portKey() && text && !strings.HasPrefix(right, "@"):
		return known(sameInterface(strings.ReplaceAll(right, "*", "+"), f.tap)), false
	case left.Payload.Protocol == "ip" && f.carries != "ip", left.Payload.Protocol == "ip6" && f.carries != "ip6":
		return no, false
	case left.Payload.Protocol == "arp":
		return no, false
	}
	peer := []string{"daddr"}
	if f.outgoing {
		peer = []string{"saddr"}
	}
	return maybe, m.Op == "==" && left.Payload.Protocol == f.carries && slices.Contains(peer, left.Payload.Field)
}
