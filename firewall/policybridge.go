package firewall

import (
	"fmt"
	"strings"

	"github.com/capsuled/capsuled/firewall/policy"
)

// nftChain is a chain of the bridge table and its rules in the words of "nft list".
type nftChain struct {
	name  string
	lines []string
}

// Verdicts of the bridge layer.
const (
	admit       = " goto admit"        // marks and accepts what a tap sends
	refusedFrom = " goto refused_from" // counts and drops what a tap sends
	refusedTo   = " goto refused_to"   // counts and drops what a tap would get
)

// begins matches the first segment of a TCP connection, and continues all others (RFC 9293, section 3.5). The layer
// knows no connections: this keeps an answer's rule from being a way to begin one.
const (
	begins    = "tcp flags syn / fin,syn,rst,ack"
	continues = "tcp flags != syn / fin,syn,rst,ack"
)

// icmpErrors are what routers and peers say about connections (RFC 792).
const icmpErrors = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"

// bridgeName is the name of a policy's chain of the kind p (all), a (answers of others) or h (answers of the host),
// for frames "from" or "to" the tap. A policy's name has no underscore, so no two policies share a chain.
func bridgeName(kind, name, way string) string {
	return kind + "_" + strings.ReplaceAll(name, "-", "_") + "_" + way
}

// policyBridge are the chains of a policy for frames. Each allows what the policy allows by what stands in the
// frame alone; nothing here relies on the IP layer.
func (o Options) policyBridge(p policy.Policy) []nftChain {
	if nothing(p) {
		return []nftChain{
			{bridgeName("p", p.Name, "from"), []string{strings.TrimSpace(refusedFrom)}},
			{bridgeName("p", p.Name, "to"), []string{strings.TrimSpace(refusedTo)}},
		}
	}
	var chains []nftChain
	// part gives the lines that judge answers: a jump to a chain of their own, where what a rule denies returns to
	// the rules for new connections, which a frame that looks like an answer may be after all.
	part := func(kind, way string, d policy.Direction, host bool) []string {
		lines := o.bridgeRules(p, d, host, true)
		if len(lines) == 0 {
			return nil
		}
		c := nftChain{bridgeName(kind, p.Name, way), lines}
		chains = append(chains, c)
		return []string{"jump " + c.name}
	}
	from := append(o.framesFrom(p), part("h", "from", policy.In, true)...)
	from = append(from, o.bridgeRules(p, policy.Out, true, false)...)
	from = append(from, "jump beyond_from")
	if anywhere(p) && !open(p) {
		from = append(from, icmpErrors+admit)
	}
	from = append(from, part("a", "from", policy.In, false)...)
	from = append(from, o.bridgeRules(p, policy.Out, false, false)...)
	from = append(from, strings.TrimSpace(refusedFrom))

	to := append(o.framesTo(p), part("h", "to", policy.Out, true)...)
	to = append(to, o.bridgeRules(p, policy.In, true, false)...)
	to = append(to, "jump beyond_to")
	to = append(to, part("a", "to", policy.Out, false)...)
	to = append(to, o.bridgeRules(p, policy.In, false, false)...)
	to = append(to, strings.TrimSpace(refusedTo))
	return append(chains, nftChain{bridgeName("p", p.Name, "from"), from}, nftChain{bridgeName("p", p.Name, "to"), to})
}

// arpChain is where ARP goes: a binding that may not speak to the world at large has no business but with the
// gateway, through which all of its peers are reached.
func arpChain(p policy.Policy, way string) string {
	if anywhere(p) {
		return "arp_" + way
	}
	return "arp_gateway_" + way
}

// framesFrom begins the chain for what a tap sends: its addresses, and what the host answers itself.
func (o Options) framesFrom(p policy.Policy) []string {
	gw := "ip daddr " + o.gateway().String() + " "
	lines := []string{
		"iifname . ether saddr != @macs" + refusedFrom,
		"ether type arp goto " + arpChain(p, "from"),
		"ether type != ip" + refusedFrom,
	}
	if p.DHCP {
		lines = append(lines, "ip daddr { "+o.gateway().String()+", 255.255.255.255 } jump dhcp_from")
	}
	lines = append(lines, "iifname . ether saddr . ip saddr != @addrs"+refusedFrom)
	if p.DHCP {
		lines = append(lines, gw+"udp sport 68 udp dport 67"+admit)
	}
	if p.SSH {
		lines = append(lines, "tcp sport 22 "+continues+admit)
	}
	return append(lines, o.questions(p)...)
}

// questions are the rules for questions for names.
func (o Options) questions(p policy.Policy) []string {
	gw := "ip daddr " + o.gateway().String() + " "
	var lines []string
	for _, l4 := range []string{"udp", "tcp"} {
		switch p.DNS {
		case policy.Forward:
			lines = append(lines, gw+l4+" dport 53"+admit)
		case policy.Static:
			lines = append(lines, fmt.Sprintf("%s%s dport 53 %s dport set %d%s", gw, l4, l4, staticPort, admit))
		}
	}
	return lines
}

// framesTo begins the chain for what a tap gets.
func (o Options) framesTo(p policy.Policy) []string {
	gw := "ip saddr " + o.gateway().String() + " "
	lines := []string{"ether type arp goto " + arpChain(p, "to"), "ether type != ip" + refusedTo}
	if p.DHCP {
		lines = append(lines, "ip daddr 255.255.255.255 udp sport 67 udp dport 68 accept")
	}
	lines = append(lines, "oifname . ether daddr . ip daddr != @addrs"+refusedTo)
	if p.DHCP {
		lines = append(lines, gw+"udp sport 67 udp dport 68 accept")
	}
	if p.SSH {
		lines = append(lines, "tcp dport 22 accept")
	}
	if anywhere(p) {
		lines = append(lines, icmpErrors+" accept")
	}
	switch p.DNS {
	case policy.Forward:
		lines = append(lines, gw+"udp sport 53 accept", gw+"tcp sport 53 "+continues+" accept")
	case policy.Static:
		lines = append(lines, fmt.Sprintf("%sudp sport %d udp sport set 53 accept", gw, staticPort),
			fmt.Sprintf("%stcp sport %d tcp sport set 53 accept", gw, staticPort))
	}
	return lines
}

// bridgeRules are the rules of a policy for one direction, for the host or for others; see filterRules.
func (o Options) bridgeRules(p policy.Policy, d policy.Direction, host, answers bool) []string {
	if !allows(p, d, host) {
		return nil
	}
	var lines []string
	for _, r := range p.Rules {
		if r.Direction != d || r.Host != host {
			continue
		}
		fromTap := (d == policy.Out) != answers
		verdict := "accept"
		switch {
		case r.Deny && answers:
			verdict = "return"
		case r.Deny && fromTap:
			verdict = strings.TrimSpace(refusedFrom)
		case r.Deny:
			verdict = strings.TrimSpace(refusedTo)
		case fromTap:
			verdict = strings.TrimSpace(admit)
		}
		lines = append(lines, o.bridgeMatches(r, fromTap, answers, verdict)...)
	}
	return lines
}

// bridgeMatches are the lines of one rule.
func (o Options) bridgeMatches(r policy.Rule, fromTap, answers bool, verdict string) []string {
	address := "ip saddr "
	if fromTap {
		address = "ip daddr "
	}
	peers := []string{""}
	if r.Host {
		peers = []string{address + o.gateway().String() + " "}
	} else if len(r.Peers) > 0 {
		peers = nil
		for _, p := range peersOf(r) {
			text := p.String()
			if p.IsSingleIP() {
				text = p.Addr().String()
			}
			peers = append(peers, address+text+" ")
		}
	}
	var lines []string
	for _, peer := range peers {
		for _, kind := range bridgeKinds(r, answers) {
			if kind == begins {
				lines = append(lines, peer+kind+" return")
				continue
			}
			lines = append(lines, strings.TrimSpace(peer+kind)+" "+verdict)
		}
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// bridgeKinds match the protocol and the ports of a rule.
func bridgeKinds(r policy.Rule, answers bool) []string {
	port, echo := " dport ", "echo-request"
	if answers {
		port, echo = " sport ", "echo-reply"
	}
	ports := nftPorts(portsOf(r))
	switch {
	case r.Protocol == policy.ICMP:
		return []string{"icmp type " + echo}
	case r.Protocol == policy.Any && answers && !r.Deny:
		return []string{begins, ""}
	case r.Protocol == policy.Any:
		return []string{""}
	case r.Protocol == policy.UDP && ports == "":
		return []string{"ip protocol udp"}
	case r.Protocol == policy.UDP:
		return []string{"udp" + port + ports}
	case answers && ports == "":
		return []string{continues}
	case answers:
		return []string{"tcp" + port + ports + " " + continues}
	case ports == "":
		return []string{"ip protocol tcp"}
	}
	return []string{"tcp" + port + ports}
}

// nftPorts are ports as nft lists them: in order, a set if there are several.
func nftPorts(ports []policy.PortRange) string {
	var list []string
	for _, p := range ports {
		if p.Low == p.High {
			list = append(list, fmt.Sprint(p.Low))
		} else {
			list = append(list, fmt.Sprintf("%d-%d", p.Low, p.High))
		}
	}
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return "{ " + strings.Join(list, ", ") + " }"
}
