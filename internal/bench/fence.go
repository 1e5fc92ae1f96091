package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/testhost"
)

// The network of the firewall's benchmarks: a bridge with one port that leads to a namespace, as to a capsule.
const (
	fenceBridge = "benchbr0"
	fenceSubnet = "192.168.64.0/20"
	wireName    = "wire" // the namespace
	wirePort    = "eth0" // the capsule's interface in it
)

var (
	fenceGateway = netip.MustParseAddr("192.168.64.1")
	bridgeMAC    = net.HardwareAddr{2, 0, 0x64, 0xff, 0xff, 1}
)

// The ports of the world that the packets go to.
const (
	answering = 7000 // answers once, so that the connection is one with replies
	silent    = 7001 // never answers, so that every packet meets the rules as a new one
	denied    = 7002 // in no rule of the secure policy
	iperfPort = 5201
)

// fence is a firewall with any number of bindings, of which the first is somebody's.
type fence struct {
	opt    firewall.Options
	chains *firewall.Chains
}

// policies are the shipped one for maintenance, and one for secure mode with ten rules, of which the last are about us.
func policies() ([]policy.Policy, error) {
	maintenance, ok := policy.Shipped(policy.Maintenance)
	if !ok {
		return nil, errors.New("no policy for maintenance is shipped")
	}
	world := []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(testhost.WorldAddr), 32)}
	secure := policy.Policy{Name: policy.Secure, Secure: true}
	for i := range 7 {
		secure.Rules = append(secure.Rules, policy.Rule{Protocol: policy.TCP, Ports: []policy.PortRange{{Low: 443, High: 443}},
			Peers: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}), 32)}})
	}
	for _, r := range []struct {
		protocol policy.Protocol
		port     uint16
	}{{policy.TCP, iperfPort}, {policy.UDP, answering}, {policy.UDP, silent}} {
		secure.Rules = append(secure.Rules, policy.Rule{Protocol: r.protocol, Peers: world, Ports: []policy.PortRange{{Low: r.port, High: r.port}}})
	}
	return []policy.Policy{maintenance, secure}, secure.Validate()
}

// openFence makes the network; the rules come with the first bindings.
func openFence(ctx context.Context) (*fence, error) {
	all, err := policies()
	if err != nil {
		return nil, err
	}
	f := &fence{opt: firewall.Options{Bridge: fenceBridge, Subnet: netip.MustParsePrefix(fenceSubnet), PortLow: 16000, PortHigh: 17999,
		Log: slog.New(slog.DiscardHandler), Policies: all}}
	one := f.bindings(1, policy.Maintenance)[0]
	err = ip(ctx,
		"link add "+fenceBridge+" address "+bridgeMAC.String()+" type bridge forward_delay 0 stp_state 0",
		"addr add "+fenceGateway.String()+"/20 dev "+fenceBridge,
		"link set "+fenceBridge+" up",
		"netns add "+wireName,
		"link add "+one.Tap+" type veth peer name "+wirePort+" address "+one.MAC.String()+" netns "+wireName,
		"link set "+one.Tap+" master "+fenceBridge+" up",
		"-n "+wireName+" addr add "+one.IP.String()+"/20 dev "+wirePort,
		"-n "+wireName+" link set "+wirePort+" up",
		"-n "+wireName+" route add default via "+fenceGateway.String(),
		"-n "+wireName+" neigh add "+fenceGateway.String()+" lladdr "+bridgeMAC.String()+" dev "+wirePort+" nud permanent",
		"neigh add "+one.IP.String()+" lladdr "+one.MAC.String()+" dev "+fenceBridge+" nud permanent",
	)
	return f, err
}

// close leaves the host as it was.
func (f *fence) close(ctx context.Context) error {
	return errors.Join(f.bare(ctx), ip(ctx, "link del "+f.bindings(1, "")[0].Tap, "link del "+fenceBridge, "netns del "+wireName))
}

// bindings are n of them, in secure and in maintenance mode by turns, but for the first.
func (f *fence) bindings(n int, first string) []firewall.Binding {
	all := make([]firewall.Binding, n)
	at := fenceGateway
	for i := range all {
		at = at.Next()
		all[i] = firewall.Binding{
			Tap: fmt.Sprintf("%s%08x", firewall.TapPrefix, uint32(i)*2654435761), IP: at, SSHPort: uint16(16000 + i),
			MAC: net.HardwareAddr{2, 0, 0x64, 0, byte(i >> 8), byte(i)}, Policy: []string{policy.Secure, policy.Maintenance}[i%2],
		}
	}
	all[0].Policy = first
	return all
}

// fill has the kernel hold n bindings; 0 is no rule at all.
func (f *fence) fill(ctx context.Context, n int, first string) (err error) {
	if n == 0 {
		return f.bare(ctx)
	}
	if f.chains == nil {
		if f.chains, err = firewall.New(f.opt); err != nil {
			return err
		}
	}
	if err := f.chains.Apply(ctx, f.bindings(n, first)); err != nil {
		return err
	}
	if err := f.chains.GuardBridge(ctx); err != nil {
		return err
	}
	return f.settle(ctx)
}

// put gives the first binding another policy.
func (f *fence) put(ctx context.Context, name string) error {
	return f.chains.Put(ctx, f.bindings(1, name)[0])
}

// bare takes every rule away, and the link of the capsule up.
func (f *fence) bare(ctx context.Context) error {
	if f.chains != nil {
		f.chains.Close()
		f.chains = nil
	}
	tap := f.bindings(1, "")[0].Tap
	if err := errors.Join(command(ctx, "nft", "flush", "ruleset"), ip(ctx, "link set "+tap+" up")); err != nil {
		return err
	}
	return f.settle(ctx)
}

// settle waits until the port of a link that is up passes frames on: the kernel notices a carrier up to a second later.
func (f *fence) settle(ctx context.Context) error {
	tap := f.bindings(1, "")[0].Tap
	const forwarding = "3" // BR_STATE_FORWARDING
	for {
		link, err := net.InterfaceByName(tap)
		if err != nil || link.Flags&net.FlagUp == 0 {
			return err
		}
		state, err := os.ReadFile("/sys/class/net/" + tap + "/brport/state")
		if err != nil || strings.TrimSpace(string(state)) == forwarding {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ip(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if err := command(ctx, slices.Insert(strings.Fields(line), 0, "ip")...); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// sent is how many packets have left the host for the world.
func sent() (n int, err error) {
	text, err := os.ReadFile("/sys/class/net/" + testhost.Uplink + "/statistics/tx_packets")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(text), &n)
	return n, err
}
