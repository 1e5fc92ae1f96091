package firewall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Evidence is what the kernel has for one tap, read back.
type Evidence struct {
	Policy string // that should be in force; Closed for a tap without a binding as well

	// Kernel is the tap's link and port, and every rule and element that judges its packets, in both layers and IPv6: the jumps of
	// the built-in chains, our base chains, the way to the tap's own, those of its policy. Chains are in the order of
	// their names, rules in that of the kernel. What other taps have is left out, so that it stands still while
	// they come and go.
	Kernel      []string
	Differences []string // in words, between Kernel and what should be; none means that the policy is in force
	Hash        string   // SHA-256 of Kernel's lines, in hex

	Link           Link   // of the tap: down, when nothing may pass, is a layer of its own
	LinkDifference string // the one of Differences that is about the link; "" when it is as it should be
	Port           Port   // of the tap: the isolation of ports is a layer of its own between capsules
	PortDifference string // the one of Differences that is about the port; "" when it is as it should be

	Flows           int   // connection tracking entries of the tap's address
	Allowed, Denied Count // since the tap's rules last changed: allowed by the IP layer; denied by either layer
	DeniedByBridge  Count // what of Denied was frames, before the IP layer saw them
}

// Inspect reads the kernel now and says what there is for a tap. A tap without a binding is one that should be shut:
// its evidence has no differences if it is. It changes nothing; it costs a reading of all rules.
func (c *Chains) Inspect(ctx context.Context, tap string) (Evidence, error) {
	if !validTap(tap) {
		return Evidence{}, fmt.Errorf("firewall: inspect: %w: %q is no tap's name", ErrInvalid, tap)
	}
	all, err := c.inspect(ctx, func() []string { return []string{tap} })
	return all[tap], err
}

// InspectAll is Inspect for the taps of all bindings, in one reading.
func (c *Chains) InspectAll(ctx context.Context) (map[string]Evidence, error) {
	return c.inspect(ctx, func() []string {
		var taps []string
		for _, b := range c.want.all() {
			taps = append(taps, b.Tap)
		}
		return taps
	})
}

func (c *Chains) inspect(ctx context.Context, taps func() []string) (map[string]Evidence, error) {
	defer c.metrics.time("inspect")()
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: inspect: %w", err)
	}
	defer done()
	s, err := c.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: inspect: %w", err)
	}
	all := map[string]Evidence{}
	for _, tap := range taps() {
		all[tap] = s.evidence(tap)
	}
	return all, nil
}

// sight is one reading of the kernel and what should be there.
type sight struct {
	opt         Options
	want        wanted
	have        state
	rules       ruleSet             // that should be, IPv4
	blocks      map[string][]string // that should be in the bridge table, but the elements
	elements    map[string]elements // that should be, by tap
	present     map[string]elements // that are there, by tap
	base        map[string][]string // IPv4 table -> our chains there that are no tap's, no policy's and no tree's
	otherBlocks []string            // of the bridge table, that are neither wanted nor a policy's
	settings    []string            // differences of kernel settings
	links       map[string]linkInfo // of all taps that there are
	flows       map[netip.Addr]int
}

func (c *Chains) look(ctx context.Context) (*sight, error) {
	s := &sight{opt: c.opt, want: c.want, base: map[string][]string{}, flows: map[netip.Addr]int{}}
	var err error
	if s.have, err = observe(ctx, "-c"); err != nil {
		return nil, err
	}
	s.rules, s.blocks = c.opt.compileIP4(c.want), c.opt.wantedBlocks(c.want.policies)
	s.elements, s.present = c.opt.compileBridge(c.want).byTap(), s.have.bridge.elements.byTap()
	if s.links, err = c.links.taps(); err != nil {
		return nil, err
	}
	if s.settings, err = c.wrongSettings(); err != nil {
		return nil, err
	}
	for _, t := range s.rules {
		names := map[string]bool{}
		for name := range t.chains {
			names[name] = true
		}
		for name := range s.have.ip4[t.name].chains {
			names[name] = true
		}
		for name := range names {
			if rest := strings.TrimPrefix(name, chainPrefix); !strings.HasPrefix(rest, TapPrefix) && !strings.Contains(rest, ".") {
				s.base[t.name] = append(s.base[t.name], name)
			}
		}
	}
	for name := range s.have.bridge.blocks {
		if _, ok := s.blocks[name]; !ok {
			s.otherBlocks = append(s.otherBlocks, name)
		}
	}
	return s, c.countFlows(s.flows)
}

// countFlows counts the connection tracking entries of each address of the subnet. A table that changes while it is
// read is counted as it was seen.
func (c *Chains) countFlows(into map[netip.Addr]int) error {
	all, err := c.flows.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("count connections: %w: %w", ErrUnavailable, err)
	}
	seen := map[netip.Addr]bool{}
	f := &flowsOf{c.opt.Subnet, c.opt.gateway(), func(a netip.Addr) bool { seen[a] = true; return false }}
	for _, flow := range all {
		clear(seen)
		f.MatchConntrackFlow(flow)
		for a := range seen {
			into[a]++
		}
	}
	return nil
}

// evidence is what concerns one tap.
func (s *sight) evidence(tap string) Evidence {
	b, bound := s.want.bindings[tap]
	e := Evidence{Policy: b.Policy}
	if bound {
		e.Flows = s.flows[b.IP]
	}
	e.Differences = slices.Clone(s.settings)
	s.seeLink(&e, tap)
	s.seeBridge(&e, tap, b)
	s.seeIP4(&e, tap, b, bound)
	six := s.opt.compileIP6()
	for _, t := range six {
		e.tell("ipv6", t, s.have.ip6[t.name], nil)
	}
	e.Differences = append(e.Differences, ip6.differences(s.have.ip6, six)...)
	hash := sha256.Sum256([]byte(strings.Join(e.Kernel, "\n")))
	e.Hash = hex.EncodeToString(hash[:])
	return e
}

// seeLink looks at the link, and at what it is a port of.
func (s *sight) seeLink(e *Evidence, tap string) {
	i, ok := s.links[tap]
	if !ok {
		i = linkInfo{state: NoLink, port: NoPort}
	}
	e.Link, e.Port = i.state, i.port
	e.Kernel = append(e.Kernel, "link: "+string(e.Link), "port: "+string(e.Port))
	e.LinkDifference, e.PortDifference = s.want.linkDifference(tap, i), portDifference(tap, s.opt.Bridge, i)
	for _, d := range []string{e.LinkDifference, e.PortDifference} {
		if d != "" {
			e.Differences = append(e.Differences, d)
		}
	}
}

// tell adds the rules of a table's chains, and its jumps, as the kernel has them. hide says which rules are others'.
func (e *Evidence) tell(label string, t table, have observed, hide func(chain, rule string) bool) {
	for _, j := range t.jumps {
		place := "missing"
		if p := have.jumps[j]; p.right() {
			place = "first"
		} else if p.count > 0 {
			place = "not first"
		}
		e.Kernel = append(e.Kernel, fmt.Sprintf("%s %s %s (%s): -j %s", label, t.name, j.builtin, place, j.target))
	}
	names := make([]string, 0, len(have.chains))
	for name := range have.chains {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, rule := range have.chains[name] {
			if hide == nil || !hide(name, rule) {
				e.Kernel = append(e.Kernel, label+" "+t.name+" "+name+": "+rule)
			}
		}
	}
}

// seeIP4 looks at the IPv4 tables.
func (s *sight) seeIP4(e *Evidence, tap string, b Binding, bound bool) {
	own := chainPrefix + tap
	for _, t := range s.rules {
		names := slices.Clone(s.base[t.name])
		way := map[string]string{}
		switch {
		case t.name == "filter":
			names = append(names, own+"-h", own+"-o", own+"-i")
			if bound && b.Policy != Closed {
				p := policyChain(b.Policy)
				names = append(names, p+"-h", p+"-o", p+"-i")
			}
			if bound {
				for _, tree := range s.opt.addressTrees() {
					maps.Copy(way, tree.way(addressKey(b.IP)))
				}
			}
		case t.name == "nat" && b.SSHPort != 0:
			way = s.opt.portTree().way(uint32(b.SSHPort))
		}
		names = slices.AppendSeq(names, maps.Keys(way))
		some := table{t.name, chainSet{}, t.jumps, false}
		have := observed{chainSet{}, s.have.ip4[t.name].jumps, nil}
		for _, name := range names {
			if rules, ok := t.chains[name]; ok {
				some.chains[name] = rules
			}
			if rules, ok := s.have.ip4[t.name].chains[name]; ok {
				have.chains[name] = rules
			}
		}
		e.Differences = append(e.Differences, ip4.differences(map[string]observed{t.name: have}, ruleSet{some})...)
		led := t.name == "filter" || s.want.forwarded(b)
		e.tell("ipv4", t, have, func(chain, rule string) bool {
			on, ok := way[chain]
			if !ok || rule == "-j DROP" || led && strings.HasPrefix(rule, on) {
				return false
			}
			return slices.Contains(some.chains[chain], rule) // the way to others
		})
	}
	counts := s.have.ip4["filter"].counts
	for _, part := range []string{"-h", "-o", "-i"} {
		// The first rule of a binding's chain meets every packet, the last one those that nothing accepted.
		if n := counts[own+part]; len(n) > 0 {
			denied := n[len(n)-1]
			e.Allowed, e.Denied = e.Allowed.plus(n[0].minus(denied)), e.Denied.plus(denied)
		}
	}
}

// seeBridge looks at the bridge table.
func (s *sight) seeBridge(e *Evidence, tap string, b Binding) {
	theirs := map[string]bool{}
	for name, p := range s.want.policies {
		for _, c := range p.bridge {
			theirs["chain "+c.name] = name != b.Policy
		}
	}
	want, have := map[string][]string{}, bridgeState{elements: elements{}}
	if s.have.bridge.blocks != nil {
		have.blocks = map[string][]string{}
	}
	for name, lines := range s.blocks {
		if theirs[name] {
			continue
		}
		want[name] = lines
		if now, ok := s.have.bridge.blocks[name]; ok {
			have.blocks[name] = now
		}
	}
	for _, name := range s.otherBlocks {
		have.blocks[name] = s.have.bridge.blocks[name]
	}
	wantElements := elements{}
	for _, set := range bridgeSets {
		wantElements[set.name], have.elements[set.name] = s.elements[tap][set.name], s.present[tap][set.name]
		for el := range have.elements[set.name] {
			if n, ok := s.have.bridge.counts[set.name][el]; ok {
				e.DeniedByBridge = e.DeniedByBridge.plus(n)
			}
		}
	}
	e.Denied = e.Denied.plus(e.DeniedByBridge)
	e.Differences = append(e.Differences, have.differences(wantElements, want)...)
	for _, name := range slices.Sorted(maps.Keys(have.blocks)) {
		for _, line := range have.blocks[name] {
			e.Kernel = append(e.Kernel, "bridge "+name+": "+line)
		}
	}
	for _, set := range bridgeSets {
		for _, el := range slices.Sorted(maps.Keys(have.elements[set.name])) {
			e.Kernel = append(e.Kernel, "bridge "+set.kind+" "+set.name+": "+el)
		}
	}
}

// byTap sorts elements by the tap that they begin with.
func (e elements) byTap() map[string]elements {
	taps := map[string]elements{}
	for set, list := range e {
		for el := range list {
			tap, _, _ := strings.Cut(strings.TrimPrefix(el, `"`), `"`)
			if taps[tap] == nil {
				taps[tap] = elements{}
			}
			if taps[tap][set] == nil {
				taps[tap][set] = map[string]bool{}
			}
			taps[tap][set][el] = true
		}
	}
	return taps
}
