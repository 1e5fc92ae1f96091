package domain_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dhcpClient speaks DHCP in raw frames from a port of the bridge, with any MAC.
type dhcpClient struct {
	t  *testing.T
	fd int
}

const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
)

func newDHCPClient(t *testing.T, bridge string) *dhcpClient {
	t.Helper()
	sh(t, "ip", "link", "add", "dhcp0", "type", "veth", "peer", "name", "dhcp1")
	t.Cleanup(func() { sh(t, "ip", "link", "del", "dhcp0") })
	sh(t, "ip", "link", "set", "dhcp0", "master", bridge, "up")
	sh(t, "ip", "link", "set", "dhcp1", "up")
	port, err := net.InterfaceByName("dhcp1")
	noErr(t, "interface", err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	noErr(t, "packet socket", err)
	t.Cleanup(func() { unix.Close(fd) })
	noErr(t, "bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: port.Index}))
	noErr(t, "timeout", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	return &dhcpClient{t, fd}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// send broadcasts one message, with a host name and a client id of its own; the transaction id says whose it is.
func (c *dhcpClient) send(kind byte, xid uint32, mac net.HardwareAddr, ask netip.Addr) {
	c.t.Helper()
	p := make([]byte, 236)
	p[0], p[1], p[2] = 1, 1, 6
	binary.BigEndian.PutUint32(p[4:], xid)
	p[10] = 0x80 // answer by broadcast
	copy(p[28:], mac)
	p = append(p, 99, 130, 83, 99, 53, 1, kind, 12, 4, 'e', 'v', 'i', 'l', 61, 3, 0, 7, mac[5])
	if ask.IsValid() {
		p = append(append(p, 50, 4), ask.AsSlice()...)
	}
	p = append(p, 255)
	udp := binary.BigEndian.AppendUint16(nil, 68)
	udp = binary.BigEndian.AppendUint16(udp, 67)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(p)))
	udp = append(append(udp, 0, 0), p...)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	frame := append([]byte{255, 255, 255, 255, 255, 255}, mac...)
	frame = append(append(append(frame, 8, 0), ip...), udp...)
	_, err := unix.Write(c.fd, frame)
	noErr(c.t, "send", err)
}

// reply is an answer of the server's.
type reply struct {
	kind byte
	xid  uint32
	ip   netip.Addr
}

// receive waits for the next answer; false when none came within a second.
func (c *dhcpClient) receive() (reply, bool) {
	c.t.Helper()
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(c.fd, buf)
		if err == unix.EAGAIN {
			return reply{}, false
		}
		if err == unix.EINTR {
			continue
		}
		noErr(c.t, "receive", err)
		// Ethernet 14, IP 20, UDP 8, BOOTP 236, cookie 4; only what goes to port 68.
		if n < 14+20+8+240+3 || binary.BigEndian.Uint16(buf[36:]) != 68 {
			continue
		}
		p := buf[42:n]
		r := reply{xid: binary.BigEndian.Uint32(p[4:]), ip: netip.AddrFrom4([4]byte(p[16:20]))}
		for o := p[240:]; len(o) > 2 && o[0] != 255; o = o[2+int(o[1]):] {
			if o[0] == 53 {
				r.kind = o[2]
			}
		}
		return r, true
	}
}

// obtain asks until the server answers, as clients do, and gives the answers to that transaction and all others.
func (c *dhcpClient) obtain(kind byte, xid uint32, mac net.HardwareAddr, ask netip.Addr) (reply, []reply) {
	c.t.Helper()
	var others []reply
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		c.send(kind, xid, mac, ask)
		for {
			r, ok := c.receive()
			if !ok {
				break
			}
			if r.xid == xid {
				return r, others
			}
			others = append(others, r)
		}
	}
	c.t.Fatalf("no answer for %s", mac)
	return reply{}, nil
}
