package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// neverReached is noted of rules behind one that takes everything.
const neverReached = "never reached: a rule before it takes everything"

// forward translates FORWARD. Rules about packets from the capsule were in effect. What was routed to the capsule
// never passed them (physdev-out matches bridged frames alone), so a rule about packets to it is either the other half
// of one about packets from it, or is not understood.
func (f *fwFile) forward() {
	done := false
	for _, r := range f.chains["FORWARD"] {
		if done {
			f.note(r.line, neverReached)
			continue
		}
		keep, err := r.begins()
		if err != nil {
			f.fault(r.line, err)
		}
		if !keep {
			continue
		}
		reply, err := r.reply()
		switch {
		case err != nil:
			f.fault(r.line, err)
		case reply:
			f.replies = append(f.replies, r)
		default:
			done = f.outward(r)
		}
	}
	for _, r := range f.replies {
		if err := f.folded(r); err != nil {
			f.fault(r.line, err)
		}
	}
}

// begins says whether a rule is about new connections. One about the packets of connections alone is true of every
// policy here: replies pass, and what belongs to no connection does not.
func (r fwRule) begins() (bool, error) {
	has := func(s string) bool { return slices.Contains(r.states, s) }
	switch {
	case len(r.states) == 0:
		return true, nil
	case r.verdict == "DROP" && has("NEW"):
		return true, nil
	case r.verdict == "DROP" && len(r.states) == 1 && has("INVALID"):
		return false, nil
	case r.verdict == "ACCEPT" && !has("INVALID"):
		return has("NEW"), nil
	}
	return false, fmt.Errorf("a rule about states that cannot be kept: want ACCEPT with NEW, ESTABLISHED or RELATED, or DROP with NEW or INVALID")
}

// reply says whether a rule of FORWARD is about packets to the capsule.
func (r fwRule) reply() (bool, error) {
	switch {
	case r.from && r.to:
		return false, fmt.Errorf("a rule from the capsule to itself: want %s at one end", fwAddress)
	case r.from && len(r.src) > 0 || r.to && len(r.dst) > 0:
		return false, fmt.Errorf("both the bridge or %s and another address at one end: want one of them", fwAddress)
	case !r.from && !r.to && len(r.src) > 0 && len(r.dst) > 0:
		return false, fmt.Errorf("neither end is the capsule: want %s as one of them", fwAddress)
	}
	return r.to || !r.from && len(r.src) > 0, nil
}

// outward translates a rule of FORWARD about packets from the capsule. It says whether the rule takes everything.
func (f *fwFile) outward(r fwRule) bool {
	rule, err := r.policyRule()
	if err != nil {
		f.fault(r.line, err)
		return false
	}
	rule.Peers = slices.Clone(r.dst)
	if rule.Deny {
		// Nobody reaches those in any case, and a rule does not name them.
		rule.Peers = slices.DeleteFunc(rule.Peers, func(p netip.Prefix) bool { return closed(p) != "" })
		if len(rule.Peers) < len(r.dst) && len(rule.Peers) == 0 {
			return false
		}
	}
	everything := rule.Protocol == Any && len(rule.Peers) == 0
	if !everything || !rule.Deny {
		f.Rules = append(f.Rules, rule)
	}
	f.everyone = f.everyone || everything && !rule.Deny
	return everything
}

// policyRule is what is common to the rules of INPUT and FORWARD.
func (r fwRule) policyRule() (Rule, error) {
	deny := r.verdict == "DROP"
	switch {
	case len(r.sports) > 0:
		return Rule{}, fmt.Errorf("source ports of what the capsule sends: want the rule without them, since they say nothing about the peer")
	case r.protocol == ICMP && deny && !r.ping:
		return Rule{}, fmt.Errorf("denies all of ICMP, where a rule is about echo requests alone: want --icmp-type echo-request")
	}
	return Rule{Line: r.line, Deny: deny, Direction: Out, Protocol: r.protocol, Ports: r.ports, Comment: r.comment}, nil
}

// folded says why a rule about packets to the capsule is not part of one about packets from it.
func (f *fwFile) folded(r fwRule) error {
	all := r.protocol == Any && len(r.src) == 0
	if r.verdict == "DROP" {
		switch {
		case all: // what is not a reply never comes in
			return nil
		case len(r.ports) > 0 && !(f.SSH && r.protocol == TCP && anyHas(r.ports, portSSH)):
			return nil
		case len(r.ports) == 0 && (f.hasRule(r, true, Rule.holds) || !f.hasRule(r, false, Rule.shares)):
			return nil
		}
		return fmt.Errorf("drops replies of connections that another rule lets the capsule begin: want a rule that drops those, with -d")
	}
	switch {
	case len(r.ports) > 0 && f.SSH && r.protocol == TCP && len(r.src) == 0 && slices.Equal(r.ports, []PortRange{{portSSH, portSSH}}):
		return nil
	case (len(r.ports) == 0 || len(r.sports) > 0) && f.hasRule(r, false, Rule.holds):
		return nil
	}
	return fmt.Errorf("lets peers begin connections, which never came through: want a rule of what the capsule begins (-d), or a policy in TOML with direction = \"in\"")
}

// hasRule says whether there is a rule about peers, denying or allowing, of which is says that it fits r's replies.
func (f *fwFile) hasRule(r fwRule, deny bool, is func(Rule, fwRule) bool) bool {
	return slices.ContainsFunc(f.Rules, func(o Rule) bool { return o.Deny == deny && !o.Host && is(o, r) })
}

// holds says whether every packet that r is about is a reply within the rule.
func (o Rule) holds(r fwRule) bool {
	if o.Protocol != Any && o.Protocol != r.protocol {
		return false
	}
	for _, p := range r.src {
		if len(o.Peers) > 0 && !covers(o.Peers, p) {
			return false
		}
	}
	if len(r.src) == 0 && len(o.Peers) > 0 || len(r.sports) == 0 && len(o.Ports) > 0 {
		return false
	}
	for _, p := range r.sports {
		if len(o.Ports) > 0 && !slices.ContainsFunc(o.Ports, func(q PortRange) bool { return q.Low <= p.Low && p.High <= q.High }) {
			return false
		}
	}
	return true
}

// shares says whether some packet that r is about is a reply within the rule.
func (o Rule) shares(r fwRule) bool {
	protocol := o.Protocol == Any || r.protocol == Any || o.Protocol == r.protocol
	peers := len(o.Peers) == 0 || len(r.src) == 0 || slices.ContainsFunc(r.src, func(p netip.Prefix) bool {
		return slices.ContainsFunc(o.Peers, p.Overlaps)
	})
	ports := len(o.Ports) == 0 || len(r.sports) == 0 || slices.ContainsFunc(r.sports, func(p PortRange) bool {
		return slices.ContainsFunc(o.Ports, func(q PortRange) bool { return p.Low <= q.High && q.Low <= p.High })
	})
	return protocol && peers && ports
}
