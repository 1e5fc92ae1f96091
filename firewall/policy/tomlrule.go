package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// rule reads the n-th rule. One about the host and other peers becomes two, of one line.
func (r *reader) rule(n int, table map[string]any) {
	at := path("rule", strconv.Itoa(n))
	r.unknown(at, table, ruleKeys)
	rule := Rule{
		Line:      r.at[at],
		Deny:      r.choice(at, table, "action", actionWords, 0) == 1,
		Direction: Direction(r.choice(at, table, "direction", directionWords, int(Out))),
		Protocol:  Protocol(r.choice(at, table, "protocol", protocolWords, int(Any))),
		Comment:   r.text(at, table, "comment"),
	}
	if v, ok := table["ports"]; ok {
		ports := path(at, "ports")
		r.list(ports, "ports", v, func(item, text string) {
			p, err := parsePorts(text)
			if err != nil {
				r.bad[ports] = true
				r.faultf(item, "%v", err)
				return
			}
			rule.Ports = append(rule.Ports, p)
		})
	}
	v, ok := table["peers"]
	if !ok {
		r.faultf(path(at, "peers"), "a rule without peers: want peers = [...], or [\"anywhere\"] if that is meant")
		v = []any{anywhereWord}
	}
	host, others := r.peers(path(at, "peers"), v, &rule)
	if others || !host {
		r.add(n, rule)
	}
	if host {
		rule.Host, rule.Peers, rule.Names = true, nil, nil
		r.add(n, rule)
	}
}

func (r *reader) add(n int, rule Rule) {
	r.Rules, r.origin = append(r.Rules, rule), append(r.origin, n)
}

// peers reads the peers of a rule into it, and says whether the host is one, and whether there are others.
func (r *reader) peers(at string, v any, rule *Rule) (host, others bool) {
	seen := map[string]bool{}
	anywhere := false
	var fromNames []netip.Prefix
	r.list(at, "peers", v, func(item, text string) {
		text = strings.ToLower(text)
		if seen[text] {
			r.faultf(item, "peer %s is there twice: leave one out", quote(text))
			return
		}
		seen[text] = true
		switch text {
		case hostWord:
			host = true
			return
		case anywhereWord:
			anywhere, others = true, true
			return
		}
		others = true
		p, isAddress, err := parsePeer(text)
		if isAddress && err == nil {
			err = twice(rule.Peers, p)
		}
		if err == nil && !isAddress {
			err = r.name(text, rule, &fromNames)
			if len(r.Hosts[text]) == 0 { // it has a fault of its own, and must not make this rule one about anywhere
				r.bad[at] = true
			}
		}
		if err != nil {
			r.bad[at] = true
			r.faultf(item, "%v", err)
		} else if isAddress {
			rule.Peers = append(rule.Peers, p)
		}
	})
	if anywhere && len(seen) > 1 {
		r.faultf(at, "\"anywhere\" stands beside other peers: want it alone")
	}
	// A name's address that is there already, by itself or by another name, is the same peer.
	for _, p := range fromNames {
		if !covers(rule.Peers, p) {
			rule.Peers = append(rule.Peers, p)
		}
	}
	return host, others
}

// twice says when an address or prefix shares addresses with an earlier one.
func twice(peers []netip.Prefix, p netip.Prefix) error {
	i := slices.IndexFunc(peers, p.Overlaps)
	if i < 0 {
		return nil
	}
	inner, outer := p, peers[i]
	if inner.Bits() < outer.Bits() {
		inner, outer = outer, inner
	}
	if inner == outer {
		return fmt.Errorf("peer %s is there twice: leave one out", show(inner))
	}
	return fmt.Errorf("%s is inside of %s: leave one out", show(inner), show(outer))
}

// name reads a peer that is a name.
func (r *reader) name(name string, rule *Rule, into *[]netip.Prefix) error {
	if err := nameFault(name); err != nil {
		return err
	}
	addresses, ok := r.Hosts[name]
	if !ok {
		return unknownName(name)
	}
	rule.Names = append(rule.Names, name)
	for _, a := range addresses {
		*into = append(*into, netip.PrefixFrom(a, a.BitLen()))
	}
	return nil
}
