package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/golden"
)

// options are those of the tests; a /20 holds what a /24 does not.
func options(subnet string) Options {
	return Options{
		Bridge: "capsbr0", Subnet: netip.MustParsePrefix(subnet), PortLow: 16000, PortHigh: 18999,
		Log: slog.New(slog.DiscardHandler), Policies: []policy.Policy{maintenance},
	}
}

// maintenance is DHCP and DNS by the host, the world beyond it, ssh forwarded in.
var maintenance = policy.Policy{
	Name: "maintenance", DHCP: true, DNS: policy.Forward, SSH: true,
	Rules: []policy.Rule{{Direction: policy.Out, Protocol: policy.Any}},
}

// bindings are n of them, every fifth closed and every seventh without ssh.
func bindings(o Options, n int) []Binding {
	all := make([]Binding, n)
	ip := o.gateway()
	for i := range all {
		ip = ip.Next()
		all[i] = Binding{
			Tap: fmt.Sprintf("cap-%08x", i*2654435761&0xffffffff), IP: ip, Policy: maintenance.Name,
			MAC: net.HardwareAddr{0x02, 0, 0x53, 0, byte(i >> 8), byte(i)}, SSHPort: uint16(16000 + i),
		}
		if i%5 == 4 {
			all[i].Policy = Closed
		}
		if i%7 == 6 {
			all[i].SSHPort = 0
		}
	}
	return all
}

func TestCompileGolden(t *testing.T) {
	for _, c := range []struct {
		name, subnet string
		n            int
		public       string
	}{
		{"none", "192.168.53.0/24", 0, ""},
		{"one", "192.168.53.0/24", 1, ""},
		{"one-public", "192.168.53.0/24", 1, "198.51.100.1"},
		{"three", "192.168.53.0/29", 3, ""},
		{"three-hundred", "192.168.48.0/20", 300, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(c.subnet)
			if c.public != "" {
				o.PublicIP = netip.MustParseAddr(c.public)
			}
			all := bindings(o, c.n)
			golden.Check(t, c.name+".ipv4", restoreText(nil, o.compileIP4(wants(o, all))))
			golden.Check(t, c.name+".bridge", o.bridgeText(o.compileBridge(wants(o, all)), wants(o, all).policies))
		})
	}
	golden.Check(t, "ipv6", restoreText(nil, options("192.168.53.0/24").compileIP6()))
}

// A packet must meet a bounded number of rules, a chain must have a name that iptables takes, and no chain
// that decides for the bridge may end without a verdict.
func TestChainsAreBounded(t *testing.T) {
	o := options("192.168.48.0/20")
	for _, table := range o.compileIP4(wants(o, bindings(o, 1000))) {
		for name, rules := range table.chains {
			if len(name) > 28 {
				t.Errorf("chain %s has %d bytes", name, len(name))
			}
			if len(rules) > 17 {
				t.Errorf("chain %s has %d rules", name, len(rules))
			}
			if table.name != "filter" || slices.Contains([]string{"CAPSULED-INPUT", "CAPSULED-OUTPUT", "CAPSULED-FORWARD"}, name) {
				continue
			}
			if strings.HasPrefix(name, chainPrefix+"A.") {
				continue // returns to a binding's own chain
			}
			if last := rules[len(rules)-1]; last != "-j DROP" && last != "-j ACCEPT" && !strings.HasPrefix(last, "-g ") {
				t.Errorf("chain %s ends in %q: what is left returns to the rules of others", name, last)
			}
		}
	}
}

// Every key is found by walking the tree from the top, and no other key is.
func TestTreeFindsExactlyItsKeys(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		low := rapid.Uint16Range(1, 65535).Draw(rt, "low")
		o := options("10.7.0.0/16")
		o.PortLow, o.PortHigh = low, rapid.Uint16Range(low, 65535).Draw(rt, "high")
		leaves := map[uint32]string{}
		for _, p := range rapid.SliceOfN(rapid.Uint16Range(o.PortLow, o.PortHigh), 0, 40).Draw(rt, "ports") {
			leaves[uint32(p)] = fmt.Sprintf("-j FOUND%d", p)
		}
		tree, chains := o.portTree(), chainSet{}
		tree.compile(leaves, nil, chains)
		probes := slices.Collect(maps.Keys(leaves))
		for range 50 {
			probes = append(probes, uint32(rapid.Uint16().Draw(rt, "probe")))
		}
		for _, p := range probes {
			if got := walk(chains, tree.top(), p); got != leaves[p] {
				rt.Fatalf("port %d: got %q, want %q", p, got, leaves[p])
			}
		}
	})
}

// walk follows a port through the chains as the kernel would.
func walk(chains chainSet, name string, port uint32) string {
	for _, rule := range chains[name] {
		var lo, hi uint32
		_, match, _ := strings.Cut(rule, "--dport ")
		match, verdict, _ := strings.Cut(match, " ")
		if n, _ := fmt.Sscanf(match, "%d:%d", &lo, &hi); n == 1 {
			hi = lo
		}
		if port < lo || port > hi {
			continue
		}
		if next, ok := strings.CutPrefix(verdict, "-g "); ok {
			return walk(chains, next, port)
		}
		return verdict
	}
	return ""
}

// wants are bindings under the policies of the options.
func wants(o Options, all []Binding) wanted {
	policies, err := o.load(o.Policies)
	if err != nil {
		panic(err)
	}
	w := wanted{map[string]Binding{}, policies}
	for _, b := range all {
		w.bindings[b.Tap] = b
	}
	return w
}

func text(o Options, all []Binding) string {
	w := wants(o, all)
	return restoreText(nil, o.compileIP4(w)) + o.bridgeText(o.compileBridge(w), w.policies)
}

func TestCompileIgnoresOrder(t *testing.T) {
	o := options("192.168.48.0/20")
	all := bindings(o, 50)
	want := text(o, all)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if got := text(o, all); got != want {
		t.Error(cmp.Diff(want, got))
	}
}

func TestInvalidOptions(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"bridge empty":       func(o *Options) { o.Bridge = "" },
		"bridge long":        func(o *Options) { o.Bridge = "abcdefghijklmnop" },
		"bridge wildcard":    func(o *Options) { o.Bridge = "cap+" },
		"bridge path":        func(o *Options) { o.Bridge = "../../x" },
		"bridge parent":      func(o *Options) { o.Bridge = ".." },
		"bridge all":         func(o *Options) { o.Bridge = "all" },
		"bridge option":      func(o *Options) { o.Bridge = "-j" },
		"bridge newline":     func(o *Options) { o.Bridge = "a\n-F" },
		"bridge like a tap":  func(o *Options) { o.Bridge = "cap-br" },
		"subnet none":        func(o *Options) { o.Subnet = netip.Prefix{} },
		"subnet v6":          func(o *Options) { o.Subnet = netip.MustParsePrefix("fd00::/64") },
		"subnet host bits":   func(o *Options) { o.Subnet = netip.MustParsePrefix("192.168.53.1/24") },
		"subnet large":       func(o *Options) { o.Subnet = netip.MustParsePrefix("10.0.0.0/8") },
		"subnet small":       func(o *Options) { o.Subnet = netip.MustParsePrefix("10.0.0.0/30") },
		"ports zero":         func(o *Options) { o.PortLow = 0 },
		"ports reversed":     func(o *Options) { o.PortHigh = 1 },
		"public v6":          func(o *Options) { o.PublicIP = netip.MustParseAddr("::1") },
		"public loopback":    func(o *Options) { o.PublicIP = netip.MustParseAddr("127.0.0.1") },
		"public unspecified": func(o *Options) { o.PublicIP = netip.IPv4Unspecified() },
		"public in subnet":   func(o *Options) { o.PublicIP = netip.MustParseAddr("192.168.53.9") },
		"log":                func(o *Options) { o.Log = nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := options("192.168.53.0/24")
			spoil(&o)
			if _, err := New(o); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

func TestInvalidBindings(t *testing.T) {
	o := options("192.168.53.0/24")
	for name, spoil := range map[string]func(*Binding){
		"tap empty":         func(b *Binding) { b.Tap = "" },
		"tap prefix only":   func(b *Binding) { b.Tap = TapPrefix },
		"tap long":          func(b *Binding) { b.Tap = "cap-234567890123" },
		"tap other prefix":  func(b *Binding) { b.Tap = "eth0" },
		"tap upper case":    func(b *Binding) { b.Tap = "cap-A" },
		"tap newline":       func(b *Binding) { b.Tap = "cap-a\n" },
		"tap quote":         func(b *Binding) { b.Tap = `cap-"` },
		"tap wildcard":      func(b *Binding) { b.Tap = "cap-*" },
		"tap plus":          func(b *Binding) { b.Tap = "cap-+" },
		"MAC none":          func(b *Binding) { b.MAC = nil },
		"MAC long":          func(b *Binding) { b.MAC = make(net.HardwareAddr, 8) },
		"MAC group":         func(b *Binding) { b.MAC = net.HardwareAddr{1, 0, 0x5e, 0, 0, 1} },
		"MAC zero":          func(b *Binding) { b.MAC = make(net.HardwareAddr, 6) },
		"address none":      func(b *Binding) { b.IP = netip.Addr{} },
		"address elsewhere": func(b *Binding) { b.IP = netip.MustParseAddr("192.168.54.9") },
		"address mapped":    func(b *Binding) { b.IP = netip.MustParseAddr("::ffff:192.168.53.9") },
		"address network":   func(b *Binding) { b.IP = o.Subnet.Addr() },
		"address gateway":   func(b *Binding) { b.IP = o.gateway() },
		"address broadcast": func(b *Binding) { b.IP = netip.MustParseAddr("192.168.53.255") },
		"port low":          func(b *Binding) { b.SSHPort = 22 },
		"port high":         func(b *Binding) { b.SSHPort = 19000 },
		"tap taken":         func(b *Binding) { b.Tap = bindings(o, 1)[0].Tap },
		"MAC taken":         func(b *Binding) { b.MAC = bindings(o, 1)[0].MAC },
		"address taken":     func(b *Binding) { b.IP = bindings(o, 1)[0].IP },
		"port taken":        func(b *Binding) { b.SSHPort = 16000 },
	} {
		t.Run(name, func(t *testing.T) {
			all := bindings(o, 2)
			if err := o.validateAll(all); err != nil {
				t.Fatal(err)
			}
			spoil(&all[1])
			if err := o.validateAll(all); err == nil {
				t.Error("taken as valid")
			}
		})
	}
}

func TestWhatShuts(t *testing.T) {
	o := options("192.168.53.0/24")
	b := bindings(o, 1)[0]
	moved, port, mac := b, b, b
	moved.IP, port.SSHPort, mac.MAC = b.IP.Next(), 16009, bytes.Clone(bindings(o, 2)[1].MAC)
	for _, c := range []struct {
		name       string
		from, next Binding
		want       bool
	}{
		{"same", b, b, false},
		{"close", b, b.closed(), true},
		{"open", b.closed(), b, false},
		{"address", b, moved, true},
		{"port", b, port, true},
		{"MAC", b, mac, true},
		{"closed moves", b.closed(), moved, false},
	} {
		if got := wants(o, []Binding{c.from}).shuts(b.Tap, wants(o, []Binding{c.next})); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
