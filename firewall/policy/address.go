package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Closed are the peers that no policy opens: they are of this machine or this link, or of nobody. Link-local addresses
// are never forwarded (RFC 3927, section 2.6.2): on a rented host they are the metadata service, which would hand out
// the host's own credentials.
var Closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network (RFC 1122, section 3.2.1.3)
	netip.MustParsePrefix("127.0.0.0/8"),    // loopback
	netip.MustParsePrefix("169.254.0.0/16"), // link-local
	netip.MustParsePrefix("224.0.0.0/4"),    // multicast
	netip.MustParsePrefix("240.0.0.0/4"),    // reserved, and the broadcast address
}

var closedWords = []string{"this network", "loopback", "link-local", "multicast", "reserved or broadcast"}

// closed says why no policy opens a peer; "" when one may. A prefix that merely holds some of Closed may be named:
// those stay closed in it.
func closed(p netip.Prefix) string {
	for i, c := range Closed {
		if c.Overlaps(p) && c.Bits() <= p.Bits() {
			return closedWords[i] + ", which is always closed"
		}
	}
	return ""
}

// The two peers that are words.
const (
	hostWord     = "host"
	anywhereWord = "anywhere"
)

// parsePeer reads an IPv4 address or prefix that a rule may name. The second result is false when the text is
// neither, and so may be a name.
func parsePeer(text string) (netip.Prefix, bool, error) {
	var p netip.Prefix
	if strings.Contains(text, "/") {
		var err error
		if p, err = netip.ParsePrefix(text); err != nil {
			return p, true, fmt.Errorf("%s is no prefix: want one such as \"198.51.100.0/24\"", quote(text))
		}
	} else {
		a, err := netip.ParseAddr(text)
		if err != nil {
			if strings.Contains(text, ":") || onlyDigitsAndDots(text) {
				return p, true, fmt.Errorf("%s is no IPv4 address: want four numbers from 0 to 255, without zeros before them", quote(text))
			}
			return p, false, nil
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return p, true, peerFault(p)
}

// peerFault says why a prefix may not be among the peers of a rule.
func peerFault(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return fmt.Errorf("an empty prefix: want one such as 198.51.100.0/24")
	case !a.Is4():
		return fmt.Errorf("%v is IPv6, which is always closed: name IPv4 addresses", p)
	case p.Bits() == 0:
		return fmt.Errorf("%v is every address: say \"anywhere\"", p)
	case p != p.Masked():
		return fmt.Errorf("%v has bits behind its prefix: want %v or \"%v\"", p, p.Masked(), a)
	}
	if why := closed(p); why != "" {
		return fmt.Errorf("%s is %s: leave it out", show(p), why)
	}
	return nil
}

func onlyDigitsAndDots(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == ""
}

// show is a prefix as people write it: an address alone has no length.
func show(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// nameFault says why a host's name cannot be one (RFC 1123, section 2.1; RFC 1035, section 2.3.4). Names are in lower
// case here.
func nameFault(name string) error {
	const want = "want letters, digits, - and dots, such as \"data.example.org\""
	switch {
	case name == hostWord || name == anywhereWord:
		return fmt.Errorf("%s is a word of rules and cannot be a name: want another", quote(name))
	case name == "" || len(name) > 253:
		return fmt.Errorf("a name of %d characters: want 1 to 253", len(name))
	case strings.HasSuffix(name, "."):
		return fmt.Errorf("name %s ends in a dot: leave it out", quote(name))
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		switch {
		case l == "" || len(l) > 63:
			return fmt.Errorf("name %s has a part of %d characters: want 1 to 63", quote(name), len(l))
		case strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			return fmt.Errorf("name %s has a character that names have not: %s", quote(name), want)
		case l[0] == '-' || l[len(l)-1] == '-':
			return fmt.Errorf("name %s has a part that begins or ends with -: %s", quote(name), want)
		}
	}
	if onlyDigitsAndDots(labels[len(labels)-1]) {
		return fmt.Errorf("name %s ends like an address: %s", quote(name), want)
	}
	return nil
}

// parsePorts reads "443" or "8000-8010".
func parsePorts(text string) (PortRange, error) {
	return portsBetween(text, "-")
}

func portsBetween(text, dash string) (PortRange, error) {
	low, high, ranged := strings.Cut(text, dash)
	if !ranged {
		high = low
	}
	l, okLow := parsePort(low)
	h, okHigh := parsePort(high)
	switch {
	case !okLow || !okHigh:
		return PortRange{}, fmt.Errorf("%s is no port: want 1 to 65535, or two as \"8000%s8010\"", quote(text), dash)
	case l > h:
		return PortRange{}, fmt.Errorf("%s has the higher port first: want \"%d%s%d\"", quote(text), h, dash, l)
	}
	return PortRange{l, h}, nil
}

// parsePort is stricter than strconv: one port has one spelling.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s == strconv.FormatUint(n, 10)
}

func (r PortRange) String() string {
	if r.Low == r.High {
		return strconv.Itoa(int(r.Low))
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

func (r PortRange) has(port uint16) bool { return r.Low <= port && port <= r.High }

// anyHas says whether a port is in a list of ranges, of which an empty one means all ports.
func anyHas(ranges []PortRange, port uint16) bool {
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(r PortRange) bool { return r.has(port) })
}

// covers says whether all of p is in one of the prefixes.
func covers(prefixes []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
}
