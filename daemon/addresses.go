package daemon

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/capsuled/capsuled/daemon/store"
)

// addresses are those of the subnet that capsules may have: all but the network's, the gateway's (the first one)
// and the broadcast's.
type addresses struct{ first, last netip.Addr }

func newAddresses(subnet netip.Prefix) (addresses, error) {
	if !subnet.Addr().Is4() || subnet.Bits() > 29 || subnet != subnet.Masked() {
		return addresses{}, fmt.Errorf("daemon: %s is not an IPv4 subnet of at least 8 addresses", subnet)
	}
	base := subnet.Addr().As4()
	size := uint32(1) << (32 - subnet.Bits())
	at := func(n uint32) netip.Addr {
		v := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
		v += n
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	return addresses{first: at(2), last: at(size - 2)}, nil
}

// claimAddress finds an address that no capsule holds.
func (d *Daemon) claimAddress(tx *store.Tx) (string, error) {
	held, err := tx.HeldAddresses()
	if err != nil {
		return "", err
	}
	for a := d.addresses.first; a.Compare(d.addresses.last) <= 0; a = a.Next() {
		if s := a.String(); !held[s] {
			return s, nil
		}
	}
	return "", errorf(Exhausted, "the host has no address left in %s", d.opt.Network.Subnet)
}

// newMAC makes a random address with QEMU's prefix, which is locally administered and unicast. The store refuses
// the one that is taken.
func newMAC() string {
	b := [6]byte{0x52, 0x54, 0x00}
	rand.Read(b[3:])
	return net.HardwareAddr(b[:]).String()
}

// claimPorts finds the two lowest ports that no capsule holds and nothing on the machine listens on; the lower is
// for ssh (capsule contract, section 6.6).
func (d *Daemon) claimPorts(tx *store.Tx) (ssh, vnc int, err error) {
	held, err := tx.HeldPorts()
	if err != nil {
		return 0, 0, err
	}
	for p := d.opt.PortLow; p <= d.opt.PortHigh; p++ {
		if held[p] || !portFree(p) {
			continue
		}
		if ssh != 0 {
			return ssh, p, nil
		}
		ssh = p
	}
	return 0, 0, errorf(Exhausted, "the host has no pair of ports left in %d-%d", d.opt.PortLow, d.opt.PortHigh)
}

// portFree asks the kernel whether anything listens on a TCP port, on any address.
func portFree(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
