package domain

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// PutLease makes l a static lease of the network, live and in its definition. It is idempotent, and takes the
// place of any other lease of the same MAC or the same IP. An address that dnsmasq still holds for another MAC
// is given up first: dnsmasq would withhold it from its new owner for the rest of the hour. ErrConflict: the
// name is another lease's.
func (h *Host) PutLease(ctx context.Context, network string, l Lease) error {
	return h.do(ctx, "put_lease", fmt.Sprintf("lease of %s in %s", l.MAC, network), h.lanes.network, func(c *libvirt.Connect) error {
		n, err := c.LookupNetworkByName(network)
		if err != nil {
			return err
		}
		defer n.Free()
		return eachDefinition(n, func(x libvirtxml.Network, flag libvirt.NetworkUpdateFlags) error {
			subnet, err := subnetOf(x)
			if err != nil {
				return err
			}
			if err := l.validate(subnet); err != nil {
				return err
			}
			if err := putHost(n, x, l, flag); err != nil || flag != libvirt.NETWORK_UPDATE_AFFECT_LIVE {
				return err
			}
			// After the update: the first lease of all is what makes dnsmasq listen.
			h.release(ctx, n, x, func(held Lease) bool { return held.IP == l.IP && !bytes.Equal(held.MAC, l.MAC) })
			return nil
		})
	})
}

// putHost brings one definition's hosts in line with l, and touches nothing when they are.
func putHost(n *libvirt.Network, x libvirtxml.Network, l Lease, flag libvirt.NetworkUpdateFlags) error {
	there := false
	for _, host := range hostsOf(x) {
		old, err := leaseOf(host)
		switch {
		case err != nil:
		case old.IP == l.IP && bytes.Equal(old.MAC, l.MAC) && old.Name == l.Name:
			there = true
		case old.IP == l.IP || bytes.Equal(old.MAC, l.MAC):
			if err := updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_DELETE, host, flag); err != nil {
				return err
			}
		}
	}
	if there {
		return nil
	}
	host := libvirtxml.NetworkDHCPHost{MAC: l.MAC.String(), Name: l.Name, IP: l.IP.String()}
	return updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_ADD_LAST, host, flag)
}

// DropLease removes the static lease of mac, live and from the definition, and has dnsmasq give up the address
// if the guest holds it. An absent lease or network is fine.
func (h *Host) DropLease(ctx context.Context, network string, mac net.HardwareAddr) error {
	err := h.do(ctx, "drop_lease", fmt.Sprintf("drop lease of %s in %s", mac, network), h.lanes.network, func(c *libvirt.Connect) error {
		n, err := c.LookupNetworkByName(network)
		if err != nil {
			return err
		}
		defer n.Free()
		return eachDefinition(n, func(x libvirtxml.Network, flag libvirt.NetworkUpdateFlags) error {
			if flag == libvirt.NETWORK_UPDATE_AFFECT_LIVE {
				// Before the update: without the last lease of all, dnsmasq no longer listens.
				h.release(ctx, n, x, func(held Lease) bool { return bytes.Equal(held.MAC, mac) })
			}
			for _, host := range hostsOf(x) {
				if old, err := leaseOf(host); err != nil || !bytes.Equal(old.MAC, mac) {
					continue
				}
				if err := updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_DELETE, host, flag); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return ignore(err, ErrNotFound)
}

// Leases lists the static leases that are in force (of a network that is down: that would be), by address.
func (h *Host) Leases(ctx context.Context, network string) ([]Lease, error) {
	leases, err := call(ctx, h, "leases", h.lanes.quick, func(c *libvirt.Connect) ([]Lease, error) {
		n, err := c.LookupNetworkByName(network)
		if err != nil {
			return nil, err
		}
		defer n.Free()
		x, err := describeNetwork(n, 0)
		if err != nil {
			return nil, err
		}
		var list []Lease
		for _, host := range hostsOf(x) {
			l, err := leaseOf(host)
			if err != nil {
				return nil, err
			}
			list = append(list, l)
		}
		slices.SortFunc(list, func(a, b Lease) int { return a.IP.Compare(b.IP) })
		return list, nil
	})
	return leases, wrap("leases of "+network, err)
}

// eachDefinition does f for the persistent definition and, when the network runs, for the live one. They can
// differ (libvirtd was killed between two updates), so each is brought in line by itself.
func eachDefinition(n *libvirt.Network, f func(libvirtxml.Network, libvirt.NetworkUpdateFlags) error) error {
	x, err := describeNetwork(n, libvirt.NETWORK_XML_INACTIVE)
	if err != nil {
		return err
	}
	if err := f(x, libvirt.NETWORK_UPDATE_AFFECT_CONFIG); err != nil {
		return err
	}
	active, err := n.IsActive()
	if err != nil || !active {
		return err
	}
	if x, err = describeNetwork(n, 0); err != nil {
		return err
	}
	return f(x, libvirt.NETWORK_UPDATE_AFFECT_LIVE)
}

func updateHost(n *libvirt.Network, cmd libvirt.NetworkUpdateCommand, host libvirtxml.NetworkDHCPHost, flag libvirt.NetworkUpdateFlags) error {
	doc, err := xml.Marshal(host)
	if err != nil {
		return err
	}
	return n.Update(cmd, libvirt.NETWORK_SECTION_IP_DHCP_HOST, -1, string(doc), flag)
}

func leaseOf(host libvirtxml.NetworkDHCPHost) (Lease, error) {
	mac, err := net.ParseMAC(host.MAC)
	if err != nil {
		return Lease{}, err
	}
	ip, err := netip.ParseAddr(host.IP)
	if err != nil {
		return Lease{}, err
	}
	return Lease{MAC: mac, IP: ip, Name: host.Name}, nil
}

// A release has no answer: that it worked shows in libvirt's list of leases, soon.
const (
	releaseTries = 40
	releaseWait  = 25 * time.Millisecond
)

// release has dnsmasq forget the leases that its guests hold, or may hold, and which picks, and waits until it
// has. It is a courtesy to the address's next owner: when it fails, the lease runs out by itself, so that is
// logged and no more.
func (h *Host) release(ctx context.Context, n *libvirt.Network, x libvirtxml.Network, which func(Lease) bool) {
	// One that was just given is not in libvirt's list yet, so the first release is sent on suspicion.
	suspects := hostsOf(x)
	err := errStillHeld
	for range releaseTries {
		var held []libvirtxml.NetworkDHCPHost
		if held, err = heldLeases(n); err != nil {
			break
		}
		held = slices.DeleteFunc(held, func(host libvirtxml.NetworkDHCPHost) bool { return !picked(host, which) })
		for _, host := range append(suspects, held...) {
			if l, lerr := leaseOf(host); lerr == nil && which(l) {
				err = errors.Join(err, sendRelease(ctx, x, l.MAC, l.IP))
			}
		}
		suspects = nil
		if len(held) == 0 || err != nil {
			break
		}
		if err = errStillHeld; !pause(ctx, releaseWait) {
			break
		}
	}
	if err != nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "dhcp lease not released", slog.String("network", x.Name), slog.Any("error", err))
	}
}

var errStillHeld = errors.New("dnsmasq still holds it")

func picked(host libvirtxml.NetworkDHCPHost, which func(Lease) bool) bool {
	l, err := leaseOf(host)
	return err == nil && l.IP.Is4() && which(l)
}

// heldLeases lists what dnsmasq has given out, as libvirt knows it, which is some milliseconds late.
func heldLeases(n *libvirt.Network) ([]libvirtxml.NetworkDHCPHost, error) {
	held, err := n.GetDHCPLeases()
	list := make([]libvirtxml.NetworkDHCPHost, 0, len(held))
	for _, l := range held {
		list = append(list, libvirtxml.NetworkDHCPHost{MAC: l.Mac, IP: l.IPaddr})
	}
	return list, err
}
