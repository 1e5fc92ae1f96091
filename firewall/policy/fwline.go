package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The placeholders and the one name of files of the original (iptables-save's words otherwise). Its bridge was always
// called so, and a rule about another interface never matched.
const (
	fwAddress = "%IP%"
	fwSSHPort = "%SSH_PORT%"
	fwBridge  = "br1"
)

// fwRule is one "-A" line as it is written.
type fwRule struct {
	line          int
	table, chain  string
	verdict       string // ACCEPT, DROP (also for REJECT and RETURN), DNAT or CHECKSUM
	from, to      bool   // the source or destination is the capsule, said by address or by bridge
	src, dst      []netip.Prefix
	protocol      Protocol
	sports, ports []PortRange
	sshPort       bool // the destination port is the forwarded one
	states        []string
	ping          bool // echo requests alone
	target        string
	comment       string
}

// alike is what two rules of different chains have in common when they were written to say the same.
func (r fwRule) alike() string {
	return fmt.Sprint(r.verdict, r.from, r.to, r.src, r.dst, r.protocol, r.sports, r.ports, r.states, r.ping)
}

// fwOptions are the options that are understood. Each gets the rule and the word after it.
var fwOptions = map[string]func(*fwRule, string) error{
	"-s":               func(r *fwRule, v string) error { return fwEnd(v, &r.from, &r.src) },
	"-d":               func(r *fwRule, v string) error { return fwEnd(v, &r.to, &r.dst) },
	"-i":               func(r *fwRule, v string) error { return fwInterface(v, &r.from) },
	"-o":               func(r *fwRule, v string) error { return fwInterface(v, &r.to) },
	"--physdev-in":     func(r *fwRule, v string) error { return fwInterface(v, &r.from) },
	"--physdev-out":    func(r *fwRule, v string) error { return fwInterface(v, &r.to) },
	"-p":               fwProtocol,
	"-m":               fwMatch,
	"-j":               fwVerdict,
	"--sport":          func(r *fwRule, v string) error { return fwPorts(v, &r.sports) },
	"--dport":          fwDestinationPorts,
	"--state":          fwStates,
	"--ctstate":        fwStates,
	"--icmp-type":      fwPing,
	"--comment":        func(r *fwRule, v string) error { r.comment = v; return nil },
	"--to-destination": func(r *fwRule, v string) error { r.target = v; return nil },
	"--reject-with":    func(*fwRule, string) error { return nil }, // nothing is answered here in any case
}

// fwLong are the long names of options, and other names of the same.
var fwLong = map[string]string{
	"--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--in-interface": "-i",
	"--out-interface": "-o", "--protocol": "-p", "--proto": "-p", "--match": "-m", "--jump": "-j",
	"--source-port": "--sport", "--destination-port": "--dport", "--source-ports": "--sport",
	"--destination-ports": "--dport", "--sports": "--sport", "--dports": "--dport", "--append": "-A", "--icmpv4-type": "--icmp-type",
}

// parseFWRule reads the words of one line that begins with -A.
func parseFWRule(line int, table string, words []string) (fwRule, error) {
	r := fwRule{line: line, table: table}
	seen := map[string]bool{}
	for len(words) > 0 {
		name := words[0]
		if long, ok := fwLong[name]; ok {
			name = long
		}
		switch {
		case name == "!" || len(words) > 1 && words[1] == "!":
			return r, fmt.Errorf("negation with !: want rules for what is meant instead, in order")
		case seen[name] && name != "-m":
			return r, fmt.Errorf("%s is there twice: want it once", quote(name))
		case name == "--checksum-fill":
			words = words[1:]
			continue
		case len(words) == 1:
			return r, fmt.Errorf("nothing after %s: want a value", quote(name))
		}
		seen[name] = true
		if name == "-A" {
			r.chain = words[1]
		} else if option, ok := fwOptions[name]; !ok {
			return r, fmt.Errorf("option %s is not understood: want a policy in TOML if it matters, or the rule without it if not", quote(name))
		} else if err := option(&r, words[1]); err != nil {
			return r, err
		}
		words = words[2:]
	}
	return r, r.whole()
}

// whole says what a rule lacks.
func (r fwRule) whole() error {
	switch {
	case r.verdict == "":
		return fmt.Errorf("a rule without -j: want -j ACCEPT or -j DROP")
	case (len(r.sports)+len(r.ports) > 0 || r.sshPort) && !ported(Rule{Protocol: r.protocol}):
		return fmt.Errorf("ports without -p tcp or -p udp: want one of them")
	case r.ping && r.protocol != ICMP:
		return fmt.Errorf("--icmp-type without -p icmp: want both")
	}
	return nil
}

// fwEnd reads the addresses of one end of a packet.
func fwEnd(v string, capsule *bool, others *[]netip.Prefix) error {
	if v == fwAddress || v == fwAddress+"/32" {
		*capsule = true
		return nil
	}
	for text := range strings.SplitSeq(v, ",") {
		if !strings.Contains(text, "/") {
			text += "/32"
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return fmt.Errorf("%s is no IPv4 address or prefix: want one such as 198.51.100.0/24, or %s for the capsule", quote(v), fwAddress)
		}
		if p.Bits() == 0 { // everything, as without the option
			*others = nil
			return nil
		}
		*others = append(*others, p.Masked()) // as iptables does
	}
	return nil
}

func fwInterface(v string, capsule *bool) error {
	if v != fwBridge {
		return fmt.Errorf("interface %s: want %s, the bridge of capsules, or none", quote(v), fwBridge)
	}
	*capsule = true
	return nil
}

func fwProtocol(r *fwRule, v string) error {
	numbers := map[string]Protocol{"all": Any, "0": Any, "tcp": TCP, "6": TCP, "udp": UDP, "17": UDP, "icmp": ICMP, "1": ICMP}
	p, ok := numbers[strings.ToLower(v)]
	if !ok {
		return fmt.Errorf("protocol %s: want tcp, udp, icmp or all", quote(v))
	}
	r.protocol = p
	return nil
}

func fwMatch(_ *fwRule, v string) error {
	if !slices.Contains([]string{"tcp", "udp", "icmp", "comment", "state", "conntrack", "multiport", "physdev"}, v) {
		return fmt.Errorf("match %s is not understood: want tcp, udp, icmp, multiport, state, conntrack, physdev or comment", quote(v))
	}
	return nil
}

// fwVerdict reads a target. What returned from a chain of the original met a rule that rejected everything.
func fwVerdict(r *fwRule, v string) error {
	switch v {
	case "ACCEPT", "DROP", "DNAT", "CHECKSUM":
		r.verdict = v
	case "REJECT", "RETURN":
		r.verdict = "DROP"
	default:
		return fmt.Errorf("target %s is not understood: want ACCEPT, DROP, REJECT or RETURN", quote(v))
	}
	return nil
}

func fwDestinationPorts(r *fwRule, v string) error {
	if v == fwSSHPort {
		r.sshPort = true
		return nil
	}
	return fwPorts(v, &r.ports)
}

func fwPorts(v string, into *[]PortRange) error {
	for text := range strings.SplitSeq(v, ",") {
		p, err := portsBetween(text, ":")
		if err != nil {
			return err
		}
		*into = append(*into, p)
	}
	return nil
}

func fwStates(r *fwRule, v string) error {
	for s := range strings.SplitSeq(strings.ToUpper(v), ",") {
		if !slices.Contains([]string{"NEW", "ESTABLISHED", "RELATED", "INVALID"}, s) {
			return fmt.Errorf("state %s: want NEW, ESTABLISHED, RELATED or INVALID", quote(s))
		}
		r.states = append(r.states, s)
	}
	return nil
}

func fwPing(r *fwRule, v string) error {
	if v != "8" && v != "echo-request" {
		return fmt.Errorf("ICMP type %s: want echo-request, since the others belong to connections", quote(v))
	}
	r.ping = true
	return nil
}

// fwWords splits a line as iptables-restore does: at white space, double quotes hold words together.
func fwWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inQuotes, inWord := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && inQuotes && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == '"':
			inQuotes, inWord = !inQuotes, true
		case (c == ' ' || c == '\t' || c == '\r') && !inQuotes:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inQuotes {
		return nil, fmt.Errorf("a quote is not closed: want another \"")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
