package firewall

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/internal/testhost"
)

// waitSeconds bounds a wait for a packet that must come: a test that gets there has failed.
const waitSeconds = 20

// pinned runs f in a network namespace ("" is the host's), always on the same processor: the kernel then
// handles what f sends in the order in which it was sent.
func pinned(t *testing.T, ns string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var cpus unix.CPUSet
		err := unix.SchedGetaffinity(0, &cpus)
		for cpu := range 1024 {
			if cpus.IsSet(cpu) {
				cpus.Zero()
				cpus.Set(cpu)
				break
			}
		}
		err = errors.Join(err, unix.SchedSetaffinity(0, &cpus))
		if err == nil && ns != "" {
			var fd int
			if fd, err = unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
			}
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("in namespace %q: %v", ns, err)
	}
}

// wire is a packet socket on one interface.
type wire struct {
	t  *testing.T
	ns string
	fd int
	to unix.SockaddrLinklayer

	came bytes.Buffer // all that came in so far
}

// openWire listens on an interface for one ethertype, 0 for all.
func openWire(t *testing.T, ns, dev string, ethertype uint16) *wire {
	t.Helper()
	w := &wire{t: t, ns: ns}
	if ethertype == 0 {
		ethertype = unix.ETH_P_ALL
	}
	swapped := ethertype<<8 | ethertype>>8
	pinned(t, ns, func() error {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swapped)); err != nil {
			return err
		}
		w.to = unix.SockaddrLinklayer{Protocol: swapped, Ifindex: link.Index}
		return errors.Join(unix.Bind(w.fd, &w.to),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: waitSeconds}))
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// send puts a frame on the wire as it is.
func (w *wire) send(frame []byte) {
	w.t.Helper()
	pinned(w.t, w.ns, func() error { return unix.Sendto(w.fd, frame, 0, &w.to) })
}

// has says whether a frame with the mark came in.
func (w *wire) has(mark string) bool {
	for w.read(unix.MSG_DONTWAIT) {
	}
	return bytes.Contains(w.came.Bytes(), []byte(mark))
}

// await waits for a frame with the mark.
func (w *wire) await(mark string) {
	w.t.Helper()
	for !bytes.Contains(w.came.Bytes(), []byte(mark)) {
		if !w.read(0) {
			w.t.Fatalf("%q never came", mark)
		}
	}
}

// read notes one frame; false if there is none.
func (w *wire) read(flags int) bool {
	w.t.Helper()
	buf := make([]byte, 65536)
	n, from, err := unix.Recvfrom(w.fd, buf, flags)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN) { // which is said once
		w.t.Fatal(err)
	}
	if err == nil && from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
		w.came.Write(buf[:n])
	}
	return true
}

// inbox is a UDP socket that notes what came.
type inbox struct {
	t    *testing.T
	conn *net.UDPConn
	came bytes.Buffer
}

func openInbox(t *testing.T, ns, address string) *inbox {
	t.Helper()
	i := &inbox{t: t}
	pinned(t, ns, func() error {
		a, err := net.ResolveUDPAddr("udp4", address)
		if err != nil {
			return err
		}
		i.conn, err = net.ListenUDP("udp4", a)
		return err
	})
	t.Cleanup(func() { i.conn.Close() })
	return i
}

// has says whether a datagram with the mark came in.
func (i *inbox) has(mark string) bool {
	raw, err := i.conn.SyscallConn()
	if err != nil {
		i.t.Fatal(err)
	}
	buf := make([]byte, 65536)
	if err := raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			i.came.Write(buf[:n])
		}
	}); err != nil {
		i.t.Fatal(err)
	}
	return bytes.Contains(i.came.Bytes(), []byte(mark))
}

// await waits for a datagram with the mark and says who sent the last one.
func (i *inbox) await(mark string) (from *net.UDPAddr) {
	i.t.Helper()
	buf := make([]byte, 65536)
	if err := i.conn.SetReadDeadline(time.Now().Add(waitSeconds * time.Second)); err != nil {
		i.t.Fatal(err)
	}
	for !bytes.Contains(i.came.Bytes(), []byte(mark)) {
		n, sender, err := i.conn.ReadFromUDP(buf)
		if err != nil {
			i.t.Fatalf("%q never came: %v", mark, err)
		}
		i.came.Write(buf[:n])
		from = sender
	}
	return from
}

// say sends one datagram from a namespace; that the sender's own rules may refuse it is no failure.
func say(t *testing.T, ns, to, mark string) {
	t.Helper()
	pinned(t, ns, func() error {
		conn, err := net.Dial("udp4", to)
		if err != nil {
			return err
		}
		if _, err = conn.Write([]byte(mark)); errors.Is(err, unix.EPERM) {
			err = nil
		}
		return errors.Join(err, conn.Close())
	})
}

// dial opens a TCP connection from a namespace.
func dial(t *testing.T, ns, to string) net.Conn {
	t.Helper()
	var conn net.Conn
	pinned(t, ns, func() (err error) {
		conn, err = net.DialTimeout("tcp4", to, waitSeconds*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// listen accepts TCP connections in a namespace.
func listen(t *testing.T, ns, address string) net.Listener {
	t.Helper()
	var l net.Listener
	pinned(t, ns, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// site is a bridge with two capsules, a stranger, and the world beyond.
type site struct {
	opt           Options
	chains        *Chains
	one, two      Binding
	bridgeMAC     net.HardwareAddr
	bridge        *wire // what the bridge hands to the host
	wire1, wire2  *wire // the interfaces inside the capsules
	wireStranger  *wire
	dns, api      *inbox // the host's own services
	world, beyond *inbox
}

// newSite builds it, without any rule. No port is isolated before the first Apply: the probes have to arrive.
func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteOf(t, options("192.168.53.0/24"))
}

func newSiteOf(t *testing.T, o Options) *site {
	t.Helper()
	s := &site{opt: o}
	s.chains = fresh(t, s.opt)
	all := bindings(s.opt, 2)
	s.one, s.two = all[0], all[1]
	t.Cleanup(func() { run(t, bare(t), "ip", "link", "del", "capsbr0") })
	setUp := `link add capsbr0 address 02:00:53:ff:ff:01 type bridge forward_delay 0 stp_state 0
addr add 192.168.53.1/24 dev capsbr0
link set capsbr0 up`
	for _, p := range []struct{ ns, port, mac, ip string }{
		{"one", s.one.Tap, s.one.MAC.String(), s.one.IP.String()},
		{"two", s.two.Tap, s.two.MAC.String(), s.two.IP.String()},
		{"stranger", "plug0", "02:00:53:00:99:99", "192.168.53.99"},
	} {
		run(t, t.Context(), "ip", "netns", "add", p.ns)
		t.Cleanup(func() {
			// The port first: the kernel takes a namespace apart later, and the name would still be taken.
			_ = exec.CommandContext(bare(t), "ip", "link", "del", p.port).Run()
			run(t, bare(t), "ip", "netns", "del", p.ns)
		})
		setUp += "\nlink add " + p.port + " type veth peer name eth0 address " + p.mac + " netns " + p.ns +
			"\nlink set " + p.port + " master capsbr0 up"
		for _, args := range []string{"addr add " + p.ip + "/24 dev eth0", "link set lo up", "link set eth0 up", "route add default via 192.168.53.1"} {
			setUp += "\n-n " + p.ns + " " + args
		}
	}
	for _, line := range strings.Split(setUp, "\n") {
		run(t, t.Context(), append([]string{"ip"}, strings.Fields(line)...)...)
	}
	s.open(t)
	return s
}

// open opens all sockets.
func (s *site) open(t *testing.T) {
	t.Helper()
	sysctl(t, "net/ipv4/ip_forward", "1")
	for _, dev := range []string{"all", "capsbr0", testhost.Uplink} {
		// The reverse path may not judge for the rules: without a fence a false sender has to get through.
		sysctl(t, "net/ipv4/conf/"+dev+"/rp_filter", "0")
	}
	s.bridgeMAC = net.HardwareAddr{2, 0, 0x53, 0xff, 0xff, 1}
	s.bridge = openWire(t, "", "capsbr0", 0)
	s.wire1, s.wire2 = openWire(t, "one", "eth0", 0), openWire(t, "two", "eth0", 0)
	s.wireStranger = openWire(t, "stranger", "eth0", 0)
	s.dns, s.api = openInbox(t, "", "0.0.0.0:53"), openInbox(t, "", "0.0.0.0:8080")
	s.world = openInbox(t, "world", testhost.WorldAddr+":7000")
	s.beyond = openInbox(t, "world", "0.0.0.0:7001")
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// bare is a context for what is cleaned up when the test's own is over.
func bare(t *testing.T) context.Context { return context.WithoutCancel(t.Context()) }
