package domain

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirtxml"
)

// dnsmasq has no way to be told that a lease is over but the one that the guest itself has: a DHCPRELEASE.
// DHCP constants: RFC 2131 and RFC 2132.
const (
	dhcpServerPort = 67
	bootRequest    = 1
	ethernet       = 1
	dhcpRelease    = 7

	optMessageType = 53
	optServerID    = 54
	optEnd         = 255
)

var dhcpCookie = []byte{99, 130, 83, 99}

// sendRelease sends dnsmasq the release that the guest would send. There is no answer to wait for; dnsmasq has
// one thread and takes it before whatever a guest asks later. Without a client id, it finds the lease by the MAC,
// whatever client id the guest had used.
func sendRelease(ctx context.Context, x libvirtxml.Network, mac net.HardwareAddr, ip netip.Addr) error {
	if x.Bridge == nil || len(x.IPs) == 0 {
		return fmt.Errorf("network %s has no bridge or address", x.Name)
	}
	server, err := netip.ParseAddr(x.IPs[0].Address)
	if err != nil {
		return err
	}
	// Bound to the bridge, or dnsmasq, which asks where a packet came in, would see it come in by the loopback.
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), x.Bridge.Name) }); err != nil {
			return err
		}
		return serr
	}}
	conn, err := d.DialContext(ctx, "udp4", netip.AddrPortFrom(server, dhcpServerPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(releasePacket(server, mac, ip))
	return err
}

func releasePacket(server netip.Addr, mac net.HardwareAddr, ip netip.Addr) []byte {
	p := make([]byte, 236, 300)
	p[0], p[1], p[2] = bootRequest, ethernet, byte(len(mac))
	binary.BigEndian.PutUint32(p[4:], rand.Uint32())
	copy(p[12:], ip.AsSlice()) // ciaddr
	copy(p[28:], mac)          // chaddr
	p = append(p, dhcpCookie...)
	p = append(p, optMessageType, 1, dhcpRelease, optServerID, 4)
	p = append(p, server.AsSlice()...)
	return append(p, optEnd)
}
