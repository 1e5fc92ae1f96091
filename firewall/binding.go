package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// TapPrefix begins the name of every tap. An interface so named that has no binding is shut by the bridge
// layer on whatever bridge it is a port of, and by the IP layer if it is a port of none.
const TapPrefix = "cap-"

// Binding ties a tap to the one MAC and IPv4 address that may use it, the port of the host that is forwarded
// to its ssh, and the policy in force.
type Binding struct {
	Tap     string // interface name, TapPrefix and [a-z0-9-], at most 15 bytes; also names its chains
	MAC     net.HardwareAddr
	IP      netip.Addr
	SSHPort uint16 // host TCP port forwarded to IP:22; 0 for none
	Policy  string // Closed, or the name of a loaded policy
}

// validateAll checks each binding, and that no two share what must be one's own.
func (o Options) validateAll(all []Binding) error {
	var faults []error
	taken := map[string]string{}
	for _, b := range all {
		if err := o.validateBinding(b); err != nil {
			faults = append(faults, fmt.Errorf("tap %q: %w", b.Tap, err))
			continue
		}
		keys := []string{"tap " + b.Tap, "address " + b.IP.String(), "MAC " + b.MAC.String()}
		if b.SSHPort != 0 {
			keys = append(keys, fmt.Sprintf("port %d", b.SSHPort))
		}
		for _, k := range keys {
			if other, ok := taken[k]; ok {
				faults = append(faults, fmt.Errorf("tap %q: %s is that of %q", b.Tap, k, other))
			}
			taken[k] = b.Tap
		}
	}
	return errors.Join(faults...)
}

// validateAmong checks one binding, and that it shares nothing with the others of a set that is valid.
func (o Options) validateAmong(b Binding, set map[string]Binding) error {
	if err := o.validateBinding(b); err != nil {
		return fmt.Errorf("tap %q: %w", b.Tap, err)
	}
	for tap, other := range set {
		if tap != b.Tap && (other.IP == b.IP || bytes.Equal(other.MAC, b.MAC) || b.SSHPort != 0 && other.SSHPort == b.SSHPort) {
			return o.validateAll([]Binding{other, b}) // which says what it is
		}
	}
	return nil
}

func (o Options) validateBinding(b Binding) error {
	switch {
	case !validTap(b.Tap):
		return errors.New("not a tap's name (" + TapPrefix + "..., at most 15 of a-z, 0-9, -)")
	case len(b.MAC) != 6 || b.MAC[0]&1 != 0 || b.MAC.String() == "00:00:00:00:00:00":
		return fmt.Errorf("MAC %q is not one interface's", b.MAC)
	case !b.IP.Is4() || !o.Subnet.Contains(b.IP):
		return fmt.Errorf("address %v is not in %v", b.IP, o.Subnet)
	case b.IP == o.Subnet.Addr() || b.IP == o.gateway() || !o.Subnet.Contains(b.IP.Next()):
		return fmt.Errorf("address %v is the network's, the host's or the broadcast one", b.IP)
	case b.SSHPort != 0 && (b.SSHPort < o.PortLow || b.SSHPort > o.PortHigh):
		return fmt.Errorf("port %d is not in %d-%d", b.SSHPort, o.PortLow, o.PortHigh)
	}
	return nil
}

// validatePolicies checks that each binding names a policy that there is.
func validatePolicies(all []Binding, policies loadedSet) error {
	var faults []error
	for _, b := range all {
		if _, ok := policies[b.Policy]; !ok && b.Policy != Closed {
			faults = append(faults, fmt.Errorf("tap %q: policy %q is not loaded", b.Tap, b.Policy))
		}
	}
	return errors.Join(faults...)
}

func validTap(tap string) bool {
	return strings.HasPrefix(tap, TapPrefix) && len(tap) > len(TapPrefix) && len(tap) <= 15 &&
		strings.Trim(tap, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// equal compares what the kernel would see.
func (b Binding) equal(other Binding) bool {
	return b.Tap == other.Tap && bytes.Equal(b.MAC, other.MAC) && b.IP == other.IP &&
		b.SSHPort == other.SSHPort && b.Policy == other.Policy
}

func (b Binding) closed() Binding {
	b.Policy = Closed
	return b
}
