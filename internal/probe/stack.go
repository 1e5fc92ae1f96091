package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for an answer.
const patience = 2 * time.Second

func dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}

// connected makes an attack that connects to an address and goes on with the connection.
func connected(network string, to fmt.Stringer, do func(net.Conn) (string, error)) func(*nic) (string, error) {
	return func(*nic) (string, error) {
		conn, err := dial(network, to.String())
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		return do(conn)
	}
}

// connectTCP connects to=, says the marker and gives the answer.
func connectTCP(mark string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	return connected("tcp4", a.socket("to"), func(conn net.Conn) (string, error) {
		if _, err := fmt.Fprintln(conn, mark); err != nil {
			return "", err
		}
		answer := make([]byte, 512)
		n, _ := conn.Read(answer)
		return fmt.Sprintf("connected %q", answer[:n]), nil
	})
}

// sendUDP sends one datagram to=.
func sendUDP(mark string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	return connected("udp4", a.socket("to"), func(conn net.Conn) (string, error) {
		_, err := conn.Write([]byte(mark))
		return "sent 1", err
	})
}

// ping sends an echo request to= and waits for the answer.
func ping(mark string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	return connected("ip4:icmp", a.address("to"), func(conn net.Conn) (string, error) {
		d := datagram{proto: 1}
		if _, err := conn.Write(d.transport(mark)); err != nil {
			return "", err
		}
		answer := make([]byte, 512)
		for {
			n, err := conn.Read(answer)
			if err != nil {
				return "", err
			}
			head := int(answer[0]&15) * 4                                                    // a raw socket gets the header too (raw(7))
			if n > head && answer[head] == 0 && strings.Contains(string(answer[:n]), mark) { // echo reply
				return "answered", nil
			}
		}
	})
}

// keepFlow connects to= and says the marker ten times a second, for as long as it can.
func keepFlow(mark string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	return connected("tcp4", a.socket("to"), func(conn net.Conn) (string, error) {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return "", err
		}
		for n := 0; ; n++ {
			if _, err := fmt.Fprintln(conn, mark); err != nil {
				return "", fmt.Errorf("after %d: %w", n, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// floodUDP sends datagrams to=, a hundred a second, until it is killed. What the stack refuses is tried again.
func floodUDP(mark string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	to := a.socket("to")
	return func(*nic) (string, error) {
		for {
			if conn, err := dial("udp4", to.String()); err == nil {
				_, _ = conn.Write([]byte(mark))
				_ = conn.Close()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// scanPorts tries to connect to every port in ports= of to=.
func scanPorts(_ string, a *arguments) func(*nic) (string, error) {
	a.need("to")
	a.need("ports")
	to := a.address("to")
	ports := take(a, "ports", func(s string) (all []uint16, err error) {
		for p := range strings.SplitSeq(s, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil {
				return nil, err
			}
			all = append(all, uint16(n))
		}
		return all, nil
	})
	return func(*nic) (string, error) {
		found := make(chan uint16)
		for _, p := range ports {
			go func() {
				conn, err := dial("tcp4", netip.AddrPortFrom(to, p).String())
				if err != nil {
					found <- 0
					return
				}
				_ = conn.Close()
				found <- p
			}()
		}
		answer := "open"
		for range ports {
			if p := <-found; p != 0 {
				answer += fmt.Sprintf(" %d", p)
			}
		}
		return answer, nil
	}
}

// setNeighbour writes a lasting entry of the guest's neighbour table: who need not ask by ARP is not held up by an
// answer that never comes (arp(7), SIOCSARP).
func setNeighbour(_ string, a *arguments) func(*nic) (string, error) {
	a.need("ip")
	a.need("mac")
	ip, mac := a.address("ip"), a.mac("mac")
	return func(*nic) (string, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer func() { _ = unix.Close(fd) }()
		var req struct { // struct arpreq of linux/if_arp.h
			pa, ha  [16]byte
			flags   int32
			netmask [16]byte
			dev     [16]byte
		}
		req.pa[0], req.ha[0] = unix.AF_INET, 1 // ARPHRD_ETHER; families in the machine's order
		copy(req.pa[4:], ip.AsSlice())
		copy(req.ha[2:], mac)
		req.flags = 0x06 // complete and permanent
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSARP, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return "", errno
		}
		return "set", nil
	}
}
