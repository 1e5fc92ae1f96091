package firewall

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/capsuled/capsuled/firewall/policy"
)

// chainPrefix begins the name of every chain of ours, and of none of others'. What follows it is upper case
// in the chains we always have and lower case (a tap) in those of a binding, so the two never meet.
const chainPrefix = "CAPSULED-"

// admitted is the bit of a packet's mark that the bridge layer sets on what a binding may send. It lives
// from the bridge's prerouting hook to the raw table, which clears it: no rule of others ever sees it.
const admitted = "0x20000000"

// chainSet is chain name -> its rules in the words of iptables-save, without "-A chain".
type chainSet map[string][]string

// jump is the one rule of ours in a built-in chain; its place is the first.
type jump struct{ builtin, target string }

// table is what we want in one table, or what there is of ours.
type table struct {
	name   string
	chains chainSet
	jumps  []jump
	edited bool // chains that are there already are not written anew but edited, rule by rule
}

// ruleSet is the tables of one address family, in the order in which they are changed.
type ruleSet []table

// The jumps of ours in each table.
var (
	rawJumps    = []jump{{"PREROUTING", chainPrefix + "PREROUTING"}}
	filterJumps = []jump{
		{"INPUT", chainPrefix + "INPUT"}, {"FORWARD", chainPrefix + "FORWARD"}, {"OUTPUT", chainPrefix + "OUTPUT"}}
	natJumps = []jump{
		{"PREROUTING", chainPrefix + "PREROUTING"}, {"OUTPUT", chainPrefix + "OUTPUT"}, {"POSTROUTING", chainPrefix + "POSTROUTING"}}
)

// compileIP4 is the whole IPv4 rule set. It is pure.
func (o Options) compileIP4(w wanted) ruleSet {
	filter, nat := o.baseFilter(), o.baseNAT()
	for _, p := range w.policies {
		maps.Copy(filter, p.filter)
	}
	o.compileBindings(w, nil, filter, nat)
	return ruleSet{{"raw", o.baseRaw(), rawJumps, false}, {"filter", filter, filterJumps, false}, {"nat", nat, natJumps, false}}
}

// compileBindings adds what depends on the bindings: the chains of each, and the trees that find them. With
// only, no more than what these bindings touch: their chains, and the nodes on the ways to their addresses and
// ports.
func (o Options) compileBindings(w wanted, only []Binding, filter, nat chainSet) {
	chains, ports := map[uint32]string{}, map[uint32]string{}
	for _, b := range w.bindings {
		name := chainPrefix + b.Tap
		chains[addressKey(b.IP)] = "-g " + name
		if w.forwarded(b) {
			ports[uint32(b.SSHPort)] = "-j DNAT --to-destination " + b.IP.String() + ":22"
		}
		if only == nil || slices.ContainsFunc(only, func(t Binding) bool { return t.Tap == b.Tap }) {
			for _, part := range []string{"-h", "-o", "-i"} {
				filter[name+part] = w.bindingChain(b, part)
			}
		}
	}
	var keys, portKeys []uint32
	if only != nil {
		keys, portKeys = []uint32{}, []uint32{}
	}
	for _, b := range only {
		keys = append(keys, addressKey(b.IP))
		if b.SSHPort != 0 {
			portKeys = append(portKeys, uint32(b.SSHPort))
		}
	}
	for _, t := range o.addressTrees() {
		t.compile(chains, keys, filter)
	}
	o.portTree().compile(ports, portKeys, nat)
}

// bindingChain is one of the chains of a binding: what its policy does not accept is dropped here, where it counts
// for this binding alone. Only the forwarded port is the binding's own.
func (w wanted) bindingChain(b Binding, part string) []string {
	if b.Policy == Closed {
		return drop
	}
	rules := []string{"-j " + policyChain(b.Policy) + part, "-j DROP"}
	if part == "-i" && w.forwarded(b) {
		rules = slices.Insert(rules, 1, "-p tcp -m tcp --dport 22 -m conntrack --ctstate DNAT -j ACCEPT")
	}
	return rules
}

// baseRaw lets in from the bridge only what the bridge layer admitted, and nothing from elsewhere that says
// it came from the bridge. Before connection tracking: what is dropped here costs no entry.
func (o Options) baseRaw() chainSet {
	br, subnet := o.Bridge, o.Subnet.String()
	return chainSet{
		chainPrefix + "PREROUTING": {
			"-i " + br + " -g " + chainPrefix + "ADMIT",
			"-i " + TapPrefix + "+ -j DROP",     // a tap that was taken out of its bridge
			"-s " + subnet + " -i lo -j RETURN", // the host talking to itself by its address on the bridge
			"-s " + subnet + " -j DROP",
		},
		chainPrefix + "ADMIT": {
			"-m mark ! --mark " + admitted + "/" + admitted + " -j DROP",
			"-j MARK --set-xmark 0x0/" + admitted,
		},
	}
}

// baseFilter decides all that enters or leaves the bridge; everything else returns to the rules of others.
func (o Options) baseFilter() chainSet {
	br, gw, trees := o.Bridge, o.gateway().String()+"/32", o.addressTrees()
	const invalid = "-m conntrack --ctstate INVALID -j DROP"
	const everyone = "255.255.255.255/32"
	return chainSet{
		chainPrefix + "INPUT": {"-i " + br + " -g " + chainPrefix + "HOST"},
		chainPrefix + "FORWARD": {
			"-i " + br + " -o " + br + " -j DROP", // capsule to capsule by way of the host
			"-i " + br + " -g " + chainPrefix + "OUT",
			"-o " + br + " -g " + chainPrefix + "IN",
			"-o " + TapPrefix + "+ -j DROP",
		},
		chainPrefix + "OUTPUT": {
			"-o " + br + " -g " + chainPrefix + "REPLY",
			"-o " + TapPrefix + "+ -j DROP",
		},
		chainPrefix + "HOST": {
			// A client without an address: who may ask at all was decided by MAC in the bridge layer. Before the rule
			// for INVALID, which a broadcast that a sniffer on the bridge has doubled becomes.
			"-s 0.0.0.0/32 -d " + everyone + " -p udp -m udp --sport 68 --dport 67 -j ACCEPT",
			invalid,
			"-g " + trees[0].top(),
		},
		chainPrefix + "OUT": closedPeers("-d", invalid, trees[1].top()),
		chainPrefix + "IN":  closedPeers("-s", invalid, trees[2].top()),
		chainPrefix + "REPLY": {
			"-s " + gw + " -d " + everyone + " -p udp -m udp --sport 67 --dport 68 -j ACCEPT",
			"-g " + trees[2].top(),
		},
	}
}

// closedPeers goes to a tree with all but what no policy opens.
func closedPeers(flag, first, top string) []string {
	rules := []string{first}
	for _, p := range policy.Closed {
		rules = append(rules, flag+" "+p.String()+" -j DROP")
	}
	return append(rules, "-g "+top)
}

// baseNAT forwards ports of the host's own addresses and hides the subnet behind them.
func (o Options) baseNAT() chainSet {
	ports := fmt.Sprintf("-p tcp -m tcp --dport %d:%d", o.PortLow, o.PortHigh)
	if o.PortLow == o.PortHigh {
		ports = fmt.Sprintf("-p tcp -m tcp --dport %d", o.PortLow)
	}
	forward := ports + " -m addrtype --dst-type LOCAL -j " + o.portTree().top()
	if o.PublicIP != (netip.Addr{}) {
		forward = fmt.Sprintf("-d %v/32 %s -j %s", o.PublicIP, ports, o.portTree().top())
	}
	return chainSet{
		chainPrefix + "PREROUTING": {"-i " + o.Bridge + " -j RETURN", forward},
		chainPrefix + "OUTPUT":     {"-d 127.0.0.0/8 -j RETURN", forward},
		chainPrefix + "POSTROUTING": {
			"-s " + o.Subnet.String() + " -j " + chainPrefix + "HIDE",
		},
		chainPrefix + "HIDE": {
			"-o " + o.Bridge + " -j RETURN",
			"-o lo -j RETURN",
			"-j MASQUERADE",
		},
	}
}

// compileIP6 drops all IPv6 from and to the bridge and the taps, whatever the bindings. (The host itself
// would send router solicitations and multicast reports on a tap, past the bridge.)
func (o Options) compileIP6() ruleSet {
	from := []string{"-i " + o.Bridge + " -j DROP", "-i " + TapPrefix + "+ -j DROP"}
	to := []string{"-o " + o.Bridge + " -j DROP", "-o " + TapPrefix + "+ -j DROP"}
	return ruleSet{
		{"raw", chainSet{chainPrefix + "PREROUTING": from}, rawJumps, false},
		{"filter", chainSet{
			chainPrefix + "INPUT":   from,
			chainPrefix + "FORWARD": append(slices.Clone(from), to...),
			chainPrefix + "OUTPUT":  to,
		}, filterJumps, false},
	}
}
