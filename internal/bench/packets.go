package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/internal/testhost"
)

// cable sends frames on the capsule's interface. The kernel carries a frame of a veth through bridge, rules and uplink
// up to the receiver's socket before the call that sent it returns, so the time of the call is the cost of the way.
type cable struct {
	fd    int
	to    unix.SockaddrLinklayer
	world map[uint16]int // sockets of the world, by port
}

// within calls f in a network namespace, on a thread that ends with it.
func within(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func openCable() (*cable, error) {
	w := &cable{fd: -1, world: map[uint16]int{}}
	err := within(wireName, func() error {
		link, err := net.InterfaceByName(wirePort)
		if err != nil {
			return err
		}
		w.to = unix.SockaddrLinklayer{Ifindex: link.Index}
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // of no protocol: it only sends
		return err
	})
	if err != nil {
		return nil, err
	}
	err = within("world", func() error {
		for _, port := range []uint16{answering, silent} {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			w.world[port] = fd
			// Small and seldom emptied: it is full after a few packets, and each that comes then costs the same.
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096),
				unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
				unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.close()
	}
	return w, err
}

func (w *cable) close() {
	_ = unix.Close(w.fd)
	for _, fd := range w.world {
		_ = unix.Close(fd)
	}
}

// answered sends a packet and has the world answer it: the connection has seen a reply from then on. Packets are sent until
// one arrives: after a link came up the kernel drops some until both ends know of it.
func (w *cable) answered(frame []byte) error {
	fd, buf := w.world[answering], make([]byte, 2048)
	for { // what an earlier flood left
		if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != nil {
			break
		}
	}
	for end := time.Now().Add(patience); ; {
		if err := unix.Sendto(w.fd, frame, 0, &w.to); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		_, from, err := unix.Recvfrom(fd, buf, 0)
		if err == nil {
			return unix.Sendto(fd, buf[:1], 0, from)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the world got no packet to answer: %w", err)
		}
	}
}

// batch is how many packets are timed together: fewer than a turn on the processor takes, so that a busy machine slows
// some batches, and most not at all.
const batch = 200

// flood sends a frame n times, in batches, and returns what one cost in each. The world must have got all of them, or none.
func (w *cable) flood(frame []byte, n int, passes bool) (each sample, err error) {
	before, err := sent()
	if err != nil {
		return nil, err
	}
	for range n / batch {
		took, err := clock(func() error {
			for range batch {
				if err := unix.Sendto(w.fd, frame, 0, &w.to); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		each = append(each, took/batch)
	}
	after, err := sent()
	if err != nil {
		return nil, err
	}
	// Others, ARP for one, send now and then.
	if got := after - before; passes != (got >= n) || !passes && got > n/20 {
		return nil, fmt.Errorf("of %d packets %d left the host, and that they pass should be %t", n, got, passes)
	}
	return each, nil
}

// datagram is a frame of a binding's with 64 bytes of UDP to a port of the world.
func datagram(b firewall.Binding, port uint16) []byte {
	const header, payload = 20 + 8, 64
	ip := make([]byte, header+payload)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], b.IP.AsSlice())
	copy(ip[16:], netip.MustParseAddr(testhost.WorldAddr).AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
	binary.BigEndian.PutUint16(ip[20:], 5000)
	binary.BigEndian.PutUint16(ip[22:], port)
	binary.BigEndian.PutUint16(ip[24:], 8+payload) // no checksum of UDP, which IPv4 allows (RFC 768)
	frame := append(append(append([]byte{}, bridgeMAC...), b.MAC...), 0x08, 0x00)
	return append(frame, ip...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
