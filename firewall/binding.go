package firewall

import (
	"net"
	"net/netip"
)

// Binding ties a tap to the one MAC and IPv4 address that may use it, the port of the host that is forwarded
// to its ssh, and the policy in force.
type Binding struct {
	Tap     string // interface name, at most 15 bytes, [a-z0-9-]; also names its chains
	MAC     net.HardwareAddr
	IP      netip.Addr
	SSHPort uint16 // host TCP port forwarded to IP:22; 0 for none
	Policy  Policy
}

// Policy names what a binding may do. The zero value is Closed.
type Policy int

const (
	Closed      Policy = iota // nothing in, nothing out, both layers
	Maintenance               // DHCP and DNS to the host, the world beyond it by NAT, ssh forwarded in
)
