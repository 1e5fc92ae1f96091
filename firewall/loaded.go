package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/firewall/policy"
)

// Closed is the policy that is always there: nothing in, nothing out, in both layers.
const Closed = ""

// maxLines bounds what one policy may become in each layer: a packet of its bindings meets them one after the
// other.
const maxLines = 4096

// loaded is a policy as rules of both layers. They name no binding: all bindings of a policy share them, so that
// one binding costs a few rules whatever its policy says.
type loaded struct {
	policy.Policy
	filter chainSet   // of the IPv4 filter table
	bridge []nftChain // a chain stands before those that go to it
	print  string     // two policies with the same print are the same to the kernel
}

// loadedSet is the loaded policies by name.
type loadedSet map[string]loaded

// load checks policies and compiles them. It is pure. The error tells all faults.
func (o Options) load(list []policy.Policy) (loadedSet, error) {
	set, faults := loadedSet{}, []error(nil)
	for _, p := range list {
		if _, twice := set[p.Name]; twice {
			faults = append(faults, fmt.Errorf("policy %q: given twice", p.Name))
			continue
		}
		if err := validatePolicy(p); err != nil {
			faults = append(faults, fmt.Errorf("policy %q: %w", p.Name, err))
			continue
		}
		l := loaded{Policy: p, filter: o.policyFilter(p), bridge: o.policyBridge(p)}
		if n := l.lines(); n > maxLines {
			faults = append(faults, fmt.Errorf("policy %q: %d lines of one layer, more than %d: name fewer peers or ports", p.Name, n, maxLines))
			continue
		}
		l.print = l.fingerprint()
		set[p.Name] = l
	}
	return set, errors.Join(faults...)
}

// lines is the length of the policy in the longer layer.
func (l loaded) lines() int {
	ip, bridge := 0, 0
	for _, rules := range l.filter {
		ip += len(rules)
	}
	for _, c := range l.bridge {
		bridge += len(c.lines)
	}
	return max(ip, bridge)
}

func (l loaded) fingerprint() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(l.filter)) {
		fmt.Fprintln(h, name, len(l.filter[name]), strings.Join(l.filter[name], "\n"))
	}
	for _, c := range l.bridge {
		fmt.Fprintln(h, c.name, len(c.lines), strings.Join(c.lines, "\n"))
	}
	fmt.Fprintln(h, l.SSH) // decides over rules outside of these chains
	return hex.EncodeToString(h.Sum(nil))
}

// validatePolicy looks at what a rule could be made of other than what it says. Whether a policy is wise is asked
// where it is read.
func validatePolicy(p policy.Policy) error {
	if !validPolicyName(p.Name) {
		return errors.New("no name of a policy (1 to 24 of a-z, 0-9 and -, beginning with a letter)")
	}
	if p.DNS < policy.NoDNS || p.DNS > policy.Forward {
		return fmt.Errorf("DNS %d is unknown", p.DNS)
	}
	for _, r := range p.Rules {
		if err := validateRule(r); err != nil {
			return fmt.Errorf("rule of line %d: %w", r.Line, err)
		}
	}
	return nil
}

func validPolicyName(name string) bool {
	return name != "" && len(name) <= 24 && name[0] >= 'a' && name[0] <= 'z' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func validateRule(r policy.Rule) error {
	switch {
	case r.Direction != policy.Out && r.Direction != policy.In:
		return fmt.Errorf("direction %d is unknown", r.Direction)
	case r.Protocol < policy.Any || r.Protocol > policy.ICMP:
		return fmt.Errorf("protocol %d is unknown", r.Protocol)
	case r.Host && len(r.Peers) > 0:
		return errors.New("the peer is the host and others at once")
	case len(r.Ports) > 0 && r.Protocol != policy.TCP && r.Protocol != policy.UDP:
		return errors.New("ports without TCP or UDP")
	}
	for _, p := range r.Peers {
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() == 0 || p != p.Masked() {
			return fmt.Errorf("peer %v is no IPv4 network", p)
		}
	}
	for _, p := range r.Ports {
		if p.Low > p.High {
			return fmt.Errorf("ports %d-%d are no range", p.Low, p.High)
		}
	}
	return nil
}

// anywhere says whether a policy allows anything about the world at large. What is said of one that does not can be
// narrow.
func anywhere(p policy.Policy) bool {
	return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		return !r.Deny && !r.Host && len(r.Peers) == 0
	})
}

// allows says whether some rule of a direction allows something, to or from the host or others.
func allows(p policy.Policy, d policy.Direction, host bool) bool {
	return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return !r.Deny && r.Direction == d && r.Host == host })
}

// nothing says whether a policy allows nothing at all: then not even an ARP frame passes.
func nothing(p policy.Policy) bool {
	return !p.DHCP && !p.SSH && p.DNS == policy.NoDNS &&
		!slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return !r.Deny })
}

// peersOf are the peers of a rule in order, without those that another contains.
func peersOf(r policy.Rule) []netip.Prefix {
	list := slices.Clone(r.Peers)
	slices.SortFunc(list, netip.Prefix.Compare)
	kept := list[:0]
	for _, p := range list {
		if !slices.ContainsFunc(kept, func(k netip.Prefix) bool { return k.Bits() <= p.Bits() && k.Overlaps(p) }) {
			kept = append(kept, p)
		}
	}
	return kept
}

// portsOf are the ports of a rule in order, with what touches put together; none if it means all.
func portsOf(r policy.Rule) []policy.PortRange {
	list := slices.Clone(r.Ports)
	slices.SortFunc(list, func(a, b policy.PortRange) int { return int(a.Low) - int(b.Low) })
	var merged []policy.PortRange
	for _, p := range list {
		if n := len(merged); n > 0 && int(p.Low) <= int(merged[n-1].High)+1 {
			merged[n-1].High = max(merged[n-1].High, p.High)
			continue
		}
		merged = append(merged, p)
	}
	if len(merged) == 1 && merged[0] == (policy.PortRange{Low: 0, High: 65535}) {
		return nil
	}
	return merged
}
