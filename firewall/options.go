package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/firewall/policy"
)

// Options say what [Chains] fences. All fields but PublicIP, Policies and Registerer are required.
type Options struct {
	Bridge            string       // the bridge's interface name; it need not exist yet
	Subnet            netip.Prefix // IPv4, /16 to /29; its first address is the host's on the bridge
	PortLow, PortHigh uint16       // host ports that may be forwarded to ssh, both included
	PublicIP          netip.Addr   // address of the host whose ports are forwarded; zero = any local one
	Log               *slog.Logger
	Policies          []policy.Policy       // what a binding may name at first; see [Chains.SetPolicies]
	Registerer        prometheus.Registerer // nil: metrics are counted and shown to nobody
}

// reserved names are directories of /proc/sys/net/ipv4/conf or interfaces that can never be our bridge.
var reserved = []string{"all", "default", "lo", ".", ".."}

func (o Options) validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(!validInterface(o.Bridge) || slices.Contains(reserved, o.Bridge), "bridge %q is no interface name", o.Bridge)
	fault(strings.HasPrefix(o.Bridge, TapPrefix), "bridge %q has the name of a tap (%s*)", o.Bridge, TapPrefix)
	ok := o.Subnet.IsValid() && o.Subnet.Addr().Is4() && o.Subnet.Bits() >= 16 && o.Subnet.Bits() <= 29
	fault(!ok, "subnet %v is not an IPv4 network of /16 to /29", o.Subnet)
	fault(ok && o.Subnet != o.Subnet.Masked(), "subnet %v has host bits", o.Subnet)
	fault(o.PortLow == 0 || o.PortLow > o.PortHigh, "ports %d-%d are no range", o.PortLow, o.PortHigh)
	fault(o.PublicIP.IsValid() && (!o.PublicIP.Is4() || o.PublicIP.IsLoopback() || o.PublicIP.IsUnspecified()),
		"public address %v is no IPv4 address of this host", o.PublicIP)
	fault(ok && o.PublicIP.IsValid() && o.Subnet.Contains(o.PublicIP), "public address %v is in the capsules' subnet", o.PublicIP)
	fault(o.Log == nil, "no logger")
	return errors.Join(faults...)
}

// gateway is the host's own address on the bridge: the first of the subnet.
func (o Options) gateway() netip.Addr { return o.Subnet.Addr().Next() }

// validInterface allows what a kernel interface name needs and neither iptables ("+"), nft ("*") nor a path
// would read as something else.
func validInterface(name string) bool {
	return name != "" && len(name) <= 15 && name[0] != '-' && strings.Trim(name,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}
