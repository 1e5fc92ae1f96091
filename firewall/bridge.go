package firewall

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/firewall/policy"
)

// bridgeTable is the one nftables table of ours.
const bridgeTable = "bridge capsuled"

// bridgeSets are the sets and maps of the table and their types: what a frame's tap and addresses are looked
// up in, so that a frame costs the same with one binding and with a thousand.
//
// chaddrs pins the client hardware address inside DHCP requests: 36 bytes into UDP (8 of its header, 28 of
// BOOTP, RFC 2131 section 2). Without it a capsule could give back or take over the lease of another.
//
// What is dropped of a tap is counted by its element in one of the denied sets.
var bridgeSets = []struct {
	name, kind string
	lines      []string
}{
	{"addrs", "set", []string{"type ifname . ether_addr . ipv4_addr"}},
	{"chaddrs", "set", []string{"typeof iifname . @th,288,48"}},
	{"denied_from", "set", []string{"type ifname", "counter"}},
	{"denied_to", "set", []string{"type ifname", "counter"}},
	{"from", "map", []string{"type ifname : verdict"}},
	{"macs", "set", []string{"type ifname . ether_addr"}},
	{"taps", "set", []string{"type ifname"}},
	{"to", "map", []string{"type ifname : verdict"}},
}

// bridgeHooks are the rules that all frames meet, in the words of "nft list". They depend on nothing.
//
// The kernel need not know bridges by name here (nft_meta_bridge is a module that hosts may lack): a frame is
// judged by its port, and a port that is none of ours is left to the mark in the IP layer.
var bridgeHooks = []nftChain{
	{"prerouting", []string{
		"type filter hook prerouting priority filter; policy accept;",
		`iifname vmap @from`,
		`iifname "` + TapPrefix + `*" drop`,
	}},
	// Frames to 01:80:c2:00:00:0x (802.1X, LACP) reach the host without passing prerouting. (Those to :0e, LLDP,
	// pass no hook at all: br_handle_frame hands them to whoever listens on the port.)
	{"input", []string{
		"type filter hook input priority filter; policy accept;",
		`iifname @taps ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:0f goto refused_from`,
		`iifname "` + TapPrefix + `*" ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:0f drop`,
	}},
	{"forward", []string{
		"type filter hook forward priority filter; policy accept;",
		`iifname @taps goto refused_from`,
		`oifname @taps drop`,
		`iifname "` + TapPrefix + `*" drop`,
		`oifname "` + TapPrefix + `*" drop`,
	}},
	{"output", []string{
		"type filter hook output priority filter; policy accept;",
		`oifname vmap @to`,
		`oifname "` + TapPrefix + `*" drop`,
	}},
}

// bridgeParts are chains that policies have in common; a chain stands before those that go to it.
func (o Options) bridgeParts() []nftChain {
	gw, subnet := o.gateway().String(), o.Subnet.String()
	asARP := []string{
		`arp htype != 1 goto refused_from`,
		`arp ptype != ip goto refused_from`,
		`arp operation != { request, reply } goto refused_from`,
	}
	const own = `iifname . arp saddr ether . arp saddr ip @addrs accept`
	return []nftChain{
		// The drop of the element is the same as the one behind it, and counts.
		{"refused_from", []string{`iifname @denied_from drop`, `drop`}},
		{"refused_to", []string{`oifname @denied_to drop`, `drop`}},
		{"admit", []string{`meta mark set meta mark | ` + admitted + ` accept`}},
		{"arp_from", append(slices.Clone(asARP), own,
			// A probe for an address conflict (RFC 5227) has no sender address yet.
			`arp operation request iifname . arp saddr ether @macs arp saddr ip 0.0.0.0 accept`,
			`goto refused_from`)},
		{"arp_gateway_from", append(slices.Clone(asARP), `arp daddr ip != `+gw+` goto refused_from`, own, `goto refused_from`)},
		{"arp_to", []string{
			`oifname . ether daddr @macs accept`,
			`ether daddr ff:ff:ff:ff:ff:ff accept`,
			`goto refused_to`,
		}},
		{"arp_gateway_to", []string{`arp saddr ip != ` + gw + ` goto refused_to`, `goto arp_to`}},
		// What dnsmasq may be told. The rules look into the datagram: what is in pieces could show them another one
		// than dnsmasq gets.
		{"dhcp_from", []string{
			`ip frag-off & 8192 != 0 udp dport 67 goto refused_from`,
			`udp sport 67 goto refused_from`,
			`udp dport 68 goto refused_from`,
			`udp dport 67 iifname . @th,288,48 != @chaddrs goto refused_from`,
			`ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 goto admit`,
		}},
		{"beyond_from", neverBeyond("ip daddr ", subnet, refusedFrom)},
		{"beyond_to", neverBeyond("ip saddr ", subnet, refusedTo)},
	}
}

// neverBeyond refuse what is not beyond the host: other bindings, and what no policy opens.
func neverBeyond(address, subnet, verdict string) []string {
	lines := []string{address + subnet + verdict}
	for _, p := range policy.Closed {
		lines = append(lines, address+p.String()+verdict)
	}
	return lines
}

// bridgeChains are all chains of the table; a chain stands before those that go to it.
func (o Options) bridgeChains(policies loadedSet) []nftChain {
	chains := o.bridgeParts()
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		chains = append(chains, policies[name].bridge...)
	}
	return append(chains, bridgeHooks...)
}

// elements is set name -> its elements in the words of "nft list".
type elements map[string]map[string]bool

// compileBridge is what the sets hold for the bindings. It is pure.
func (o Options) compileBridge(w wanted) elements {
	e := elements{}
	for _, s := range bridgeSets {
		e[s.name] = map[string]bool{}
	}
	for _, b := range w.bindings {
		for _, p := range o.pins(b) {
			e[p.set][p.text] = true
		}
	}
	return e
}

// bridgeText is the whole table as one transaction of nft -f: no packet sees it half.
func (o Options) bridgeText(e elements, policies loadedSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %[1]s {\n}\ndelete table %[1]s\ntable %[1]s {\n", bridgeTable) // made first, so that delete finds one
	for _, s := range bridgeSets {
		fmt.Fprintf(&b, "\t%s %s {\n\t\t%s\n", s.kind, s.name, strings.Join(s.lines, "\n\t\t"))
		if list := slices.Sorted(maps.Keys(e[s.name])); len(list) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(list, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range o.bridgeChains(policies) {
		fmt.Fprintf(&b, "\tchain %s {\n\t\t%s\n\t}\n", c.name, strings.Join(c.lines, "\n\t\t"))
	}
	b.WriteString("}\n")
	return b.String()
}

// elementText is the transaction that turns one content of the sets into another; "" if they are the same.
func elementText(have, want elements) string {
	var b strings.Builder
	for _, s := range bridgeSets {
		for _, verb := range []struct {
			name     string
			from, to map[string]bool
		}{{"delete", want[s.name], have[s.name]}, {"add", have[s.name], want[s.name]}} {
			var list []string
			for _, el := range slices.Sorted(maps.Keys(verb.to)) {
				if !verb.from[el] {
					list = append(list, el)
				}
			}
			if len(list) > 0 {
				fmt.Fprintf(&b, "%s element %s %s { %s }\n", verb.name, bridgeTable, s.name, strings.Join(list, ", "))
			}
		}
	}
	return b.String()
}

// observeBridge reads the table from the kernel; no table is an empty one.
func observeBridge(ctx context.Context) (bridgeState, error) {
	text, err := command(ctx, "", "nft", "list", "table", "bridge", "capsuled")
	if fault, ok := errors.AsType[*commandError](err); ok && strings.Contains(fault.stderr, "No such file or directory") {
		return bridgeState{}, nil
	}
	if err != nil {
		return bridgeState{}, err
	}
	return parseBridge(text), nil
}

func loadBridge(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	_, err := command(ctx, text, "nft", "-f", "-")
	return err
}
