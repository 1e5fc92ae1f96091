package domain

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// networkMark is our element in the network's metadata: a network without it is a stranger's.
const networkMark = `<` + metadataPrefix + `:network xmlns:` + metadataPrefix + `="` + metadataURI + `"/>`

// dnsmasqOptions are what libvirt has no words for. The host's own /etc/hosts is none of a guest's business, and
// no guest may put a name of its choosing into the DNS that all share, or give up another's lease by its client id: a
// lease is its MAC's. Nobody is offered an address that is not
// a static lease's: see networkXML.
var dnsmasqOptions = []string{"no-hosts", "dhcp-ignore-names", "dhcp-ignore-clid"}

// nobody is the MAC of a lease that is always there, for the gateway's own address. libvirt starts dnsmasq anew when a
// network gets its first static lease or loses its last one: a fifth of a second in which no guest is answered. All
// other changes are a signal. The MAC is nobody's, and a guest that claimed it would be offered what is not free.
const nobody = "02:00:00:00:00:00"

// networkXML describes n with these leases. Forward mode "open" makes libvirt write no firewall rule. The DHCP
// section has hosts and no range, for which libvirt gives dnsmasq "dhcp-range=...,static": a MAC that has no
// lease gets no answer. The bridge speaks no STP: its ports are isolated leaves, and a guest must not be heard
// as a bridge. There is no IPv6 address, so libvirt turns IPv6 off on the bridge.
func networkXML(n Network, uuid, mac string, hosts []libvirtxml.NetworkDHCPHost) (string, error) {
	hosts = append([]libvirtxml.NetworkDHCPHost{{MAC: nobody, IP: n.Gateway().String()}}, hosts...)
	x := libvirtxml.Network{
		Name:     n.Name,
		UUID:     uuid,
		Metadata: &libvirtxml.NetworkMetadata{XML: networkMark},
		Forward:  &libvirtxml.NetworkForward{Mode: "open"},
		Bridge:   &libvirtxml.NetworkBridge{Name: n.Bridge, STP: "off", Delay: "0"},
		// Names without a dot are never asked of the host's own resolver.
		DNS: &libvirtxml.NetworkDNS{Enable: "yes", ForwardPlainNames: "no"},
		IPs: []libvirtxml.NetworkIP{{
			Family: "ipv4", Address: n.Gateway().String(), Prefix: uint(n.Subnet.Bits()),
			DHCP: &libvirtxml.NetworkDHCP{Hosts: hosts},
		}},
		DnsmasqOptions: &libvirtxml.NetworkDnsmasqOptions{},
	}
	if mac != "" {
		x.MAC = &libvirtxml.NetworkMAC{Address: mac}
	}
	for _, o := range dnsmasqOptions {
		x.DnsmasqOptions.Option = append(x.DnsmasqOptions.Option, libvirtxml.NetworkDnsmasqOption{Value: o})
	}
	doc, err := xml.MarshalIndent(x, "", "  ")
	return string(doc) + "\n", err
}

// EnsureNetwork makes the network be there as described, and run. One that is already so is left alone; one
// that differs in what we own is defined anew, with the leases that still fit, when no domain is attached to
// it, and is ErrConflict otherwise, as is a stranger's network of that name. It does not start with libvirtd:
// after a boot the owner's fence comes first, then the network, then domains. A dnsmasq that died is started anew. It is
// idempotent.
func (h *Host) EnsureNetwork(ctx context.Context, n Network) error {
	if err := n.Validate(); err != nil {
		return err
	}
	return h.do(ctx, "ensure_network", "network "+n.Name, h.lanes.network, func(c *libvirt.Connect) error {
		net, err := c.LookupNetworkByName(n.Name)
		if isCode(err, libvirt.ERR_NO_NETWORK) {
			return defineNetwork(ctx, c, n, "", "", nil)
		}
		if err != nil {
			return err
		}
		defer net.Free()
		same, err := sameNetwork(net, n)
		if err != nil {
			return err
		}
		if !same {
			return replaceNetwork(ctx, c, net, n)
		}
		return startNetwork(ctx, net, n)
	})
}

func defineNetwork(ctx context.Context, c *libvirt.Connect, n Network, uuid, mac string, hosts []libvirtxml.NetworkDHCPHost) error {
	doc, err := networkXML(n, uuid, mac, hosts)
	if err != nil {
		return err
	}
	net, err := c.NetworkDefineXML(doc)
	if err != nil {
		return err
	}
	defer net.Free()
	return startNetwork(ctx, net, n)
}

func startNetwork(ctx context.Context, net *libvirt.Network, n Network) error {
	if err := net.SetAutostart(false); err != nil {
		return err
	}
	active, err := net.IsActive()
	switch {
	case err != nil:
		return err
	case active:
		return reviveDNSMasq(ctx, net, n.Gateway())
	}
	return net.Create()
}

// reviveDNSMasq has libvirt start the network's dnsmasq anew if it has died. libvirt itself does not watch it, and looks
// whether it is there only when a static lease changes (networkRefreshDhcpDaemon). A dnsmasq that lives listens for
// names on TCP; anything but a refusal tells nothing.
func reviveDNSMasq(ctx context.Context, n *libvirt.Network, gateway netip.Addr) error {
	const local = time.Second // to an address of this host
	conn, err := (&net.Dialer{Timeout: local}).DialContext(ctx, "tcp4", netip.AddrPortFrom(gateway, 53).String())
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_MODIFY,
		libvirtxml.NetworkDHCPHost{MAC: nobody, IP: gateway.String()}, libvirt.NETWORK_UPDATE_AFFECT_LIVE)
}

// replaceNetwork takes down a network of ours that differs and puts up n. The UUID stays.
func replaceNetwork(ctx context.Context, c *libvirt.Connect, net *libvirt.Network, n Network) error {
	old, err := describeNetwork(net, libvirt.NETWORK_XML_INACTIVE)
	if err != nil {
		return err
	}
	// Read from the document: virNetworkGetMetadata is of libvirt 9.7.
	if old.Metadata == nil || !strings.Contains(old.Metadata.XML, metadataURI) {
		return fmt.Errorf("%w: it exists, differs, and is not ours: choose another network.name, or remove it (virsh net-destroy, net-undefine)", ErrConflict)
	}
	active, err := net.IsActive()
	if err != nil {
		return err
	}
	if active {
		ports, err := net.ListAllPorts(0)
		for i := range ports {
			_ = ports[i].Free()
		}
		if err != nil {
			return err
		}
		if len(ports) > 0 {
			return fmt.Errorf("%w: it differs from the configuration, and %d domains are attached to it: stop them first",
				ErrConflict, len(ports))
		}
		if err := net.Destroy(); err != nil {
			return err
		}
	}
	var keep []libvirtxml.NetworkDHCPHost
	for _, host := range hostsOf(old) {
		if l, err := leaseOf(host); err == nil && l.validate(n.Subnet) == nil {
			keep = append(keep, host)
		}
	}
	mac := ""
	if old.MAC != nil {
		mac = old.MAC.Address
	}
	return defineNetwork(ctx, c, n, old.UUID, mac, keep)
}

// sameNetwork compares what we own, in the persistent definition and, when it runs, in the live one.
func sameNetwork(net *libvirt.Network, n Network) (bool, error) {
	defined, err := describeNetwork(net, libvirt.NETWORK_XML_INACTIVE)
	if err != nil {
		return false, err
	}
	active, err := net.IsActive()
	if err != nil || !active {
		return owned(defined) == wanted(n), err
	}
	live, err := describeNetwork(net, 0)
	return owned(defined) == wanted(n) && owned(live) == wanted(n), err
}

// ownedFields are the fields of a network that are ours to decide. The rest (MAC, DHCP hosts, what an operator
// adds) is left as it is.
type ownedFields struct {
	forward, bridge, stp, addresses, dhcp, plain, options string
}

func wanted(n Network) ownedFields {
	return ownedFields{
		forward: "open", bridge: n.Bridge, stp: "off", plain: "no", options: fmt.Sprint(dnsmasqOptions),
		addresses: fmt.Sprintf("%s/%d", n.Gateway(), n.Subnet.Bits()),
	}
}

func owned(x libvirtxml.Network) ownedFields {
	var o ownedFields
	if x.Forward != nil {
		o.forward = x.Forward.Mode
	}
	if x.Bridge != nil {
		o.bridge, o.stp = x.Bridge.Name, x.Bridge.STP
	}
	if x.DNS != nil {
		o.plain = x.DNS.ForwardPlainNames
	}
	if x.DnsmasqOptions != nil {
		var list []string
		for _, opt := range x.DnsmasqOptions.Option {
			list = append(list, opt.Value)
		}
		o.options = fmt.Sprint(list)
	}
	for i, ip := range x.IPs {
		if i > 0 {
			o.addresses += " "
		}
		o.addresses += prefixOf(ip)
		if ip.DHCP != nil && len(ip.DHCP.Ranges) > 0 {
			o.dhcp = "range" // somebody lets strangers in
		}
	}
	return o
}

// prefixOf renders an address that libvirt may describe with a prefix or with a netmask.
func prefixOf(ip libvirtxml.NetworkIP) string {
	bits := int(ip.Prefix)
	if mask, err := netip.ParseAddr(ip.Netmask); err == nil && ip.Prefix == 0 && mask.Is4() {
		m := mask.As4()
		for bits = 0; bits < 32 && m[bits/8]&(1<<(7-bits%8)) != 0; bits++ {
		}
	}
	return fmt.Sprintf("%s/%d", ip.Address, bits)
}

func describeNetwork(net *libvirt.Network, flags libvirt.NetworkXMLFlags) (libvirtxml.Network, error) {
	var x libvirtxml.Network
	doc, err := net.GetXMLDesc(flags)
	if err != nil {
		return x, err
	}
	return x, xml.Unmarshal([]byte(doc), &x)
}

// hostsOf lists the static leases of a network, but nobody's.
func hostsOf(x libvirtxml.Network) []libvirtxml.NetworkDHCPHost {
	var hosts []libvirtxml.NetworkDHCPHost
	for _, ip := range x.IPs {
		if ip.DHCP != nil {
			hosts = append(hosts, ip.DHCP.Hosts...)
		}
	}
	return slices.DeleteFunc(hosts, func(h libvirtxml.NetworkDHCPHost) bool { return h.MAC == nobody })
}

// subnetOf is the network's IPv4 subnet.
func subnetOf(x libvirtxml.Network) (netip.Prefix, error) {
	for _, ip := range x.IPs {
		if p, err := netip.ParsePrefix(prefixOf(ip)); err == nil && p.Addr().Is4() {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("network %s has no IPv4 subnet", x.Name)
}
