package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/internal/rig"
)

// capture keeps every packet that any interface of some network namespaces sends or gets, and what programs of the
// host would get: packets that came past its INPUT chains.
type capture struct {
	mu      sync.Mutex
	packets []packet
	sockets []*os.File
}

// packet is one sighting. The same packet is seen on every interface on its way.
type packet struct {
	where string // such as "up0 out", "world:ex0 in", "service"
	data  []byte
}

// services are the protocols that raw sockets of the host wait for: ICMP, IGMP, TCP, UDP, GRE, ESP, SCTP and one of
// those for experiments. Such a socket gets a copy of what the INPUT chains let through (raw(7)).
var services = []int{unix.IPPROTO_ICMP, unix.IPPROTO_IGMP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, 47, 50, 132, 253}

// newCapture begins at once, in the host and in the outside world, and ends with the test.
func newCapture(t *testing.T) *capture {
	t.Helper()
	c := &capture{}
	for _, ns := range []string{"", "world"} {
		c.open(t, ns, unix.AF_PACKET, int(htons(unix.ETH_P_ALL)), sighting(ns))
	}
	for _, proto := range services {
		c.open(t, "", unix.AF_INET, proto, func(int, unix.Sockaddr) string { return "service" })
	}
	for _, proto := range []int{unix.IPPROTO_ICMPV6, unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		c.open(t, "", unix.AF_INET6, proto, func(int, unix.Sockaddr) string { return "service" })
	}
	return c
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

// sighting names interface and direction. Indexes of interfaces are those of the socket's namespace, so the socket is
// asked for the name; one that has gone meanwhile keeps its number.
func sighting(ns string) func(int, unix.Sockaddr) string {
	if ns != "" {
		ns += ":"
	}
	names := map[int]string{}
	return func(fd int, from unix.Sockaddr) string {
		at, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			return ns + "nowhere"
		}
		name, ok := names[at.Ifindex]
		if !ok {
			if name = interfaceName(fd, at.Ifindex); name == "" {
				name = fmt.Sprint(at.Ifindex)
			}
			names[at.Ifindex] = name
		}
		if at.Pkttype == unix.PACKET_OUTGOING {
			return ns + name + " out"
		}
		return ns + name + " in"
	}
}

// open makes a socket in a namespace and keeps what it hears.
func (c *capture) open(t *testing.T, ns string, family, proto int, name func(int, unix.Sockaddr) string) {
	t.Helper()
	var fd int
	err := inside(ns, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		return err
	})
	if err != nil {
		t.Fatalf("capture in %q: %v", ns, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "capture")
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c.sockets = append(c.sockets, f)
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = f.Close()
		<-done
	})
	go func() {
		defer close(done)
		buffer := make([]byte, 1<<16)
		for {
			err := raw.Read(func(fd uintptr) bool {
				c.mu.Lock() // what is not in the socket any more is in the list
				defer c.mu.Unlock()
				n, from, err := unix.Recvfrom(int(fd), buffer, 0)
				if err == nil {
					c.packets = append(c.packets, packet{name(int(fd), from), bytes.Clone(buffer[:n])})
				}
				return !errors.Is(err, unix.EAGAIN) // an interface that goes down is an error of one read
			})
			if err != nil { // closed
				return
			}
		}
	}()
}

// places are where a marker was seen, and how often.
func (c *capture) places(mark string) map[string]int {
	found := map[string]int{}
	for _, p := range c.all() {
		if bytes.Contains(p.data, []byte(mark)) {
			found[p.where]++
		}
	}
	return found
}

// all are the packets so far.
func (c *capture) all() []packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets[:len(c.packets):len(c.packets)]
}

// forget drops what was seen so far.
func (c *capture) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = nil
}

// drain waits until every packet that has come to a socket is in the list.
func (c *capture) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.sockets {
			waiting := 0
			raw, err := s.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
			}
			if err != nil || waiting > 0 {
				return fmt.Errorf("capture: %d bytes of a packet wait, %v", waiting, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// complete wants no packet lost: what was not captured was not looked at.
func (c *capture) complete(t *testing.T) {
	t.Helper()
	for _, s := range c.sockets[:2] {
		raw, err := s.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil || stats.Drops > 0 {
				t.Errorf("capture: %d packets lost, %v", stats.Drops, err)
			}
		})
	}
}

// inside calls do on a thread that is in a network namespace of the host; "" is the host's own.
func inside(ns string, do func() error) error {
	if ns == "" {
		return do()
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: a thread in another namespace ends with its goroutine
		there, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
			_ = there.Close()
		}
		if err == nil {
			err = do()
		}
		failed <- err
	}()
	return <-failed
}

func interfaceName(fd, index int) string {
	ifr, err := unix.NewIfreq("any") // the name is filled in
	if err != nil {
		return ""
	}
	ifr.SetUint32(uint32(index))
	if unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr) != nil {
		return ""
	}
	return ifr.Name()
}

// greeter accepts connections in a namespace for the length of the test and answers each with a greeting.
func greeter(t *testing.T, ns, address string) {
	t.Helper()
	var l net.Listener
	if err := inside(ns, func() (err error) { l, err = net.Listen("tcp4", address); return err }); err != nil {
		t.Fatalf("listen on %s in %q: %v", address, ns, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = conn.Write([]byte("hello\n"))
				buffer := make([]byte, 4096)
				for err == nil {
					_, err = conn.Read(buffer)
				}
				_ = conn.Close()
			}()
		}
	}()
}
