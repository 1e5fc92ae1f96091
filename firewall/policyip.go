package firewall

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/capsuled/capsuled/firewall/policy"
)

var drop = []string{"-j DROP"}

// staticPort is where the static resolver answers. The bridge layer leads the questions of bindings there from port
// 53, and its answers back; the IP layer knows no other port of such a binding. So without the bridge layer's rules
// there is no way to the host's own resolver at port 53, and without the IP layer's there is none either.
const staticPort = 10053

// flowLimit is how many connections one binding may have under way at once. The kernel's table of connections is the
// host's, and full it drops everybody's new ones.
const flowLimit = "4096"

// crowded returns the new connections of a binding that has too many (iptables-extensions(8), connlimit).
const crowded = "-m conntrack --ctstate NEW -m connlimit --connlimit-above " + flowLimit +
	" --connlimit-mask 32 --connlimit-saddr -j RETURN"

// answer matches packets that belong to a connection which the other side began, and that the kernel saw begin.
const answer = " -m conntrack --ctstate ESTABLISHED --ctdir REPLY"

// forwardedAnswer matches those of connections to the forwarded port of ssh.
const forwardedAnswer = "-p tcp -m tcp --sport 22" + answer + " -m conntrack --ctstate DNAT -j ACCEPT"

// errorsOfOthers lets errors of ICMP about connections through. They come from machines that nobody listed, so they
// are for policies that list none.
const errorsOfOthers = "-p icmp -m conntrack --ctstate RELATED -j ACCEPT"

// policyChain is the beginning of the names of a policy's chains in the filter table. A name of at most 15 bytes is
// told in full (iptables takes 28 bytes for a chain).
func policyChain(name string) string {
	if len(name) > 15 {
		name = fmt.Sprintf("%s.%x", name[:6], sha256.Sum256([]byte(name)))[:15]
	}
	return chainPrefix + "A." + name
}

// policyFilter are the chains of a policy: what a binding may send to the host (-h) and beyond it (-o), and what it
// may get (-i). They accept what is allowed, and all else returns to the binding's own chain, which drops it:
// so a chain that is empty allows nothing.
func (o Options) policyFilter(p policy.Policy) chainSet {
	name := policyChain(p.Name)
	return chainSet{name + "-h": o.filterHost(p), name + "-o": o.filterOut(p), name + "-i": o.filterIn(p)}
}

// open says whether a policy lets its bindings begin anything with anybody. Such a binding may get all that belongs
// to what it began, errors of ICMP from routers on the way among them.
func open(p policy.Policy) bool {
	for _, r := range p.Rules {
		if r.Direction == policy.Out && !r.Host && len(r.Peers) == 0 && r.Protocol == policy.Any {
			return !r.Deny
		}
	}
	return false
}

func (o Options) filterHost(p policy.Policy) []string {
	var rules []string
	switch {
	case open(p) && (p.SSH || allows(p, policy.In, true)):
		// Only what answers the host: a packet of the binding's own connections passes by the rules below.
		rules = append(rules, "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT")
	case p.SSH:
		rules = append(rules, forwardedAnswer)
	}
	rules = append(rules, o.filterRules(p, policy.In, true, true)...)
	asks := o.filterServices(p)
	asks = append(asks, o.filterRules(p, policy.Out, true, false)...)
	if len(asks) > 0 {
		rules = append(append(rules, crowded), asks...)
	}
	return rules
}

// filterServices are the rules for what the host answers itself.
func (o Options) filterServices(p policy.Policy) []string {
	var rules []string
	gw := "-d " + o.gateway().String() + "/32 "
	if p.DHCP {
		rules = append(rules, gw+"-p udp -m udp --sport 68 --dport 67 -j ACCEPT")
	}
	if port := dnsPort(p); port != "" {
		rules = append(rules, gw+"-p udp -m udp --dport "+port+" -j ACCEPT", gw+"-p tcp -m tcp --dport "+port+" -j ACCEPT")
	}
	return rules
}

// dnsPort is the port of the host at which a policy's questions for names arrive; "" if they do not.
func dnsPort(p policy.Policy) string {
	return map[policy.DNS]string{policy.Static: strconv.Itoa(staticPort), policy.Forward: "53"}[p.DNS]
}

func (o Options) filterOut(p policy.Policy) []string {
	var rules []string
	if p.SSH && !open(p) {
		rules = append(rules, forwardedAnswer)
	}
	if anywhere(p) && !open(p) {
		rules = append(rules, errorsOfOthers)
	}
	rules = append(rules, o.filterRules(p, policy.In, false, true)...)
	if begins := o.filterRules(p, policy.Out, false, false); len(begins) > 0 {
		rules = append(append(rules, crowded), begins...)
	}
	return rules
}

func (o Options) filterIn(p policy.Policy) []string {
	var rules []string
	gw := "-s " + o.gateway().String() + "/32 "
	switch {
	case open(p):
		rules = append(rules, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	case anywhere(p):
		rules = append(rules, errorsOfOthers)
	}
	if p.DHCP {
		rules = append(rules, gw+"-p udp -m udp --sport 67 --dport 68 -j ACCEPT")
	}
	if !open(p) {
		if port := dnsPort(p); port != "" {
			rules = append(rules, gw+"-p udp -m udp --sport "+port+answer+" -j ACCEPT", gw+"-p tcp -m tcp --sport "+port+answer+" -j ACCEPT")
		}
		rules = append(rules, o.filterRules(p, policy.Out, true, true)...)
		rules = append(rules, o.filterRules(p, policy.Out, false, true)...)
	}
	rules = append(rules, o.filterRules(p, policy.In, true, false)...)
	if begins := o.filterRules(p, policy.In, false, false); len(begins) > 0 {
		// The host is a peer only where a rule names it, whatever address it sends from.
		rules = append(append(rules, "-m addrtype --src-type LOCAL -j RETURN"), begins...)
	}
	return rules
}

// filterRules are the rules of a policy for one direction, for the host or for others. With answers, they are those
// for the replies, which go the other way. If none allows anything there are none.
func (o Options) filterRules(p policy.Policy, d policy.Direction, host, answers bool) []string {
	if !allows(p, d, host) {
		return nil
	}
	var rules []string
	for _, r := range p.Rules {
		if r.Direction != d || r.Host != host {
			continue
		}
		verdict := " -j ACCEPT"
		if r.Deny {
			verdict = " -j RETURN"
		}
		if answers {
			verdict = answer + verdict
		}
		for _, match := range o.filterMatches(r, answers) {
			rules = append(rules, strings.TrimSpace(match+verdict))
		}
	}
	return rules
}

// filterMatches are the matches of one rule, as iptables-save says them.
func (o Options) filterMatches(r policy.Rule, answers bool) []string {
	address, port, echo := "-d ", "d", "8"
	if (r.Direction == policy.In) != answers {
		address = "-s "
	}
	if answers {
		port, echo = "s", "0"
	}
	var kinds []string
	switch r.Protocol {
	case policy.Any:
		kinds = []string{""}
	case policy.ICMP:
		kinds = []string{"-p icmp -m icmp --icmp-type " + echo}
	case policy.TCP:
		kinds = portMatches("tcp", port, portsOf(r))
	case policy.UDP:
		kinds = portMatches("udp", port, portsOf(r))
	}
	peers := []string{""}
	if r.Host {
		peers = []string{address + o.gateway().String() + "/32 "}
	} else if len(r.Peers) > 0 {
		peers = nil
		for _, p := range peersOf(r) {
			peers = append(peers, address+p.String()+" ")
		}
	}
	var all []string
	for _, peer := range peers {
		for _, kind := range kinds {
			all = append(all, strings.TrimSpace(peer+kind))
		}
	}
	return all
}

// multiportMax is how many ports one match of multiport takes; a range counts as two (iptables-extensions(8)).
const multiportMax = 15

// portMatches match any of some ports; letter is d for destination ports and s for those of the source.
func portMatches(protocol, letter string, ports []policy.PortRange) []string {
	if len(ports) == 0 {
		return []string{"-p " + protocol}
	}
	var matches, list []string
	used := 0
	flush := func() {
		if len(list) == 1 {
			matches = append(matches, fmt.Sprintf("-p %s -m %s --%sport %s", protocol, protocol, letter, list[0]))
		} else if len(list) > 1 {
			matches = append(matches, fmt.Sprintf("-p %s -m multiport --%sports %s", protocol, letter, strings.Join(list, ",")))
		}
		list, used = nil, 0
	}
	for _, p := range ports {
		text, size := strconv.Itoa(int(p.Low)), 1
		if p.High != p.Low {
			text, size = fmt.Sprintf("%d:%d", p.Low, p.High), 2
		}
		if used+size > multiportMax {
			flush()
		}
		list, used = append(list, text), used+size
	}
	flush()
	return matches
}
