package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Conflict is something on the host that rules over packets as well, and could surprise who knows ours alone.
type Conflict struct {
	Name   string // of what it is: one word
	Detail string // what was found
	Advice string // what it means, and what to do
}

// Conflicts looks for the rules of others, in the order in which they matter. Nothing it finds can let through what
// ours drop, but for rules before our jumps; the rest can stop what a policy allows. It changes nothing.
func (c *Chains) Conflicts(ctx context.Context) ([]Conflict, error) {
	var found []Conflict
	chains := map[string][]string{} // family -> the names of all chains, and the policies that drop
	for _, f := range []family{ip4, ip6} {
		text, err := command(ctx, "", f.save)
		if err != nil {
			return nil, fmt.Errorf("firewall: conflicts: %w", err)
		}
		found = append(found, f.before(text)...)
		chains[f.label] = chainsOf(text)
	}
	found = append(found, byName(chains)...)
	if c.nft {
		legacy, err := legacyTables()
		if err != nil {
			return nil, fmt.Errorf("firewall: conflicts: %w", err)
		}
		if len(legacy) > 0 && legacySpeaks(ctx) {
			found = append(found, Conflict{"iptables-legacy", "tables " + strings.Join(legacy, ", "),
				"packets pass them besides those of iptables, which does not show them: look with iptables-legacy-save and " +
					"ip6tables-legacy-save, take their rules away and restart what made them"})
		}
	}
	tables, err := command(ctx, "", "nft", "list", "tables")
	if err != nil {
		return nil, fmt.Errorf("firewall: conflicts: %w", err)
	}
	found = append(found, byTable(tables, func(family, name string) bool { return !c.nft && speaks(ctx, family, name) })...)
	overruled, err := c.opt.overruled()
	if err != nil {
		return nil, fmt.Errorf("firewall: conflicts: %w", err)
	}
	if len(overruled) > 0 {
		found = append(found, Conflict{"host-setting", strings.Join(overruled, ", "),
			"it holds for the bridge as well, whose own setting is stricter and is not in effect: the rules do without, but set it " +
				"to what the bridge has (rp_filter 0 or 1, the others 0) unless something else here asks for it"})
	}
	nf, err := bridgeNF()
	if err != nil {
		return nil, fmt.Errorf("firewall: conflicts: %w: %w", ErrUnavailable, err)
	}
	if len(nf) > 0 {
		found = append(found, Conflict{"br_netfilter", strings.Join(nf, ", "),
			"frames of all bridges pass the tables of iptables as well; the fence neither needs nor minds it, others' bridges may: " +
				"set it to 0 unless something else here (Docker, Kubernetes) asks for it"})
	}
	return found, nil
}

// legacySpeaks says whether the tables of iptables-legacy have any rule, or drop by themselves: who only looked at
// them has made them. Without the programs that tell, they are taken to.
func legacySpeaks(ctx context.Context) bool {
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		text, err := command(ctx, "", program)
		if err != nil {
			return true
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":") && strings.Contains(line, " DROP ") {
				return true
			}
		}
	}
	return false
}

// speaks says whether a table of nf_tables has any rule, or drops by itself; who only looked at it with iptables-nft has
// made it. One that cannot be read is taken to.
func speaks(ctx context.Context, family, name string) bool {
	text, err := command(ctx, "", "nft", "--stateless", "list", "table", family, name)
	if err != nil {
		return true
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "type "):
			if strings.HasSuffix(line, "policy drop;") {
				return true
			}
		case line != "" && line != "}" && !strings.HasSuffix(line, "{") && !strings.HasPrefix(line, "#"):
			return true
		}
	}
	return false
}

// before finds rules of others that stand before our jumps.
func (f family) before(text string) []Conflict {
	jumps := map[string][]jump{"raw": rawJumps, "filter": filterJumps, "nat": natJumps}
	if f.label == ip6.label {
		delete(jumps, "nat")
	}
	var found []Conflict
	var table string
	first := map[string][]string{} // built-in chain -> the rules before our jump
	flush := func() {
		for _, j := range jumps[table] {
			rules := first[j.builtin]
			i := slices.Index(rules, "-j "+j.target)
			if i > 0 {
				found = append(found, Conflict{"rule-before-ours",
					fmt.Sprintf("%s %s %s: %s", f.label, table, j.builtin, strings.Join(rules[:i], "; ")),
					"it judges packets before the fence does, and may let them through: the next repair puts the fence first again; " +
						"find out who inserts rules at the head, and have it append them"})
			}
		}
		clear(first)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if line == "COMMIT" {
			flush()
		}
		if rule, ok := strings.CutPrefix(line, "-A "); ok {
			chain, rule, _ := strings.Cut(rule, " ")
			first[chain] = append(first[chain], rule)
		}
	}
	return found
}

// chainsOf are the names of all chains in the output of iptables-save; a built-in one that drops what is left is
// there as "FORWARD DROP".
func chainsOf(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], ":") {
			if f[1] == "DROP" {
				all = append(all, f[0][1:]+" DROP")
			}
			all = append(all, f[0][1:])
		}
	}
	return all
}

// managers are programs that keep rules in iptables, by how their chains begin.
var managers = []struct{ name, prefix, advice string }{
	{"docker", "DOCKER", "packets of the bridge never reach its rules; after a restart it puts its jumps first, and the fence " +
		"takes that place again within a second: better start it before this daemon, or keep it on other hosts"},
	{"firewalld", "INPUT_ZONES", "its rules are not reached by packets of the bridge, but a reload of it flushes chains: switch it off here (systemctl disable --now firewalld)"},
	{"ufw", "ufw", "its rules are not reached by packets of the bridge, but `ufw reload` and `ufw reset` flush chains: switch it off here (ufw disable)"},
	{"kubernetes", "KUBE-", "it marks and translates packets of the whole host: keep it on other hosts"},
}

func byName(chains map[string][]string) []Conflict {
	var found []Conflict
	for _, m := range managers {
		var names []string
		for _, family := range []string{ip4.label, ip6.label} {
			for _, name := range chains[family] {
				if strings.HasPrefix(name, m.prefix) {
					names = append(names, name)
				}
			}
		}
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		names = slices.Compact(names)
		detail := fmt.Sprintf("%d chains, such as %s", len(names), names[0])
		if slices.Contains(chains[ip4.label], "FORWARD DROP") {
			detail += "; what is forwarded and meets no rule is dropped"
		}
		found = append(found, Conflict{m.name, detail, m.advice})
	}
	return found
}

// ownTables are those that iptables keeps in nf_tables, and ours.
var ownTables = []string{"filter", "nat", "mangle", "raw", "security"}

// byTable finds tables of nf_tables that are neither ours nor those of iptables. foreign says of one that is called like
// a table of iptables that it is another's, as where iptables uses the legacy backend.
func byTable(list string, foreign func(family, name string) bool) []Conflict {
	var bridges, others []string
	var found []Conflict
	for line := range strings.Lines(list) { // table inet firewalld
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		family, name := f[1], f[2]
		switch {
		case name == "firewalld":
			found = append(found, Conflict{"firewalld", "table " + family + " " + name,
				"it drops what its zones do not allow, also what a policy does: put the bridge into the zone \"trusted\" " +
					"(firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE), or switch it off here"})
		case family+" "+name == bridgeTable:
		case (family == "ip" || family == "ip6") && slices.Contains(ownTables, name) && !foreign(family, name):
		case family == "bridge":
			bridges = append(bridges, name)
		case family != "arp":
			others = append(others, family+" "+name)
		}
	}
	if len(bridges) > 0 {
		found = append(found, Conflict{"bridge-table", "tables of family bridge: " + strings.Join(bridges, ", "),
			"they see the same frames as the fence and may stop what a policy allows: look with `nft list table bridge NAME`"})
	}
	if len(others) > 0 {
		found = append(found, Conflict{"nftables", "tables " + strings.Join(others, ", "),
			"they see the same packets as the fence and may stop what a policy allows: look with `nft list table FAMILY NAME`"})
	}
	return found
}

// bridgeNF are the settings of br_netfilter that are on; none if it is not there.
func bridgeNF() ([]string, error) {
	var on []string
	for _, name := range []string{"arptables", "ip6tables", "iptables"} {
		path := "net/bridge/bridge-nf-call-" + name
		value, err := os.ReadFile(filepath.Join(sysctlRoot, path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(value)) != "0" {
			on = append(on, strings.ReplaceAll(path, "/", ".")+" = "+strings.TrimSpace(string(value)))
		}
	}
	return on, nil
}
