package firewall

import (
	"bufio"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Connections to the ports named end, with the far side told, by IPv4, IPv6 and by a socket for both; others and
// those who listen stay.
func TestDisconnect(t *testing.T) {
	other := held(t, "127.0.0.1:0", "")
	outgoing := held(t, "127.0.0.1:0", "") // its port is the far side's alone
	var ends []net.Conn
	var ports []uint16
	for _, a := range []struct{ listen, dial string }{
		{"127.0.0.1:0", ""}, {"[::1]:0", ""}, {"[::]:0", "127.0.0.1"}, {"127.0.0.1:0", ""},
	} {
		h := held(t, a.listen, a.dial)
		ends, ports = append(ends, h.client), append(ports, h.port)
	}
	n, err := Disconnect(t.Context(), ports...)
	if err != nil || n != len(ends) {
		t.Errorf("%d ended, %v; want %d", n, err, len(ends))
	}
	for i, c := range ends {
		if err := c.SetReadDeadline(time.Now().Add(waitSeconds * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("connection %d: %v, want a reset", i, err)
		}
	}
	for _, h := range []*heldConn{other, outgoing} {
		h.echo(t)
	}
	if n, err := Disconnect(t.Context(), ports...); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	if n, err := Disconnect(t.Context()); n != 0 || err != nil {
		t.Errorf("no port: %d, %v", n, err)
	}
	again := dial(t, "", net.JoinHostPort("127.0.0.1", portText(ports[0])))
	if err := again.Close(); err != nil {
		t.Errorf("nobody listens any more: %v", err)
	}
}

// A connection that nobody has accepted yet is one.
func TestDisconnectWaiting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, "", l.Addr().String())
	if n, err := Disconnect(t.Context(), uint16(l.Addr().(*net.TCPAddr).Port)); n != 1 || err != nil {
		t.Errorf("%d, %v; want 1", n, err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// heldConn is a connection that both sides hold.
type heldConn struct {
	client, server net.Conn
	port           uint16
}

func held(t *testing.T, listen, at string) *heldConn {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &heldConn{port: uint16(l.Addr().(*net.TCPAddr).Port)}
	to := l.Addr().String()
	if at != "" {
		to = net.JoinHostPort(at, portText(h.port))
	}
	if h.client, err = net.Dial("tcp", to); err != nil {
		t.Fatal(err)
	}
	if h.server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.client.Close(); h.server.Close() })
	return h
}

// echo shows that the connection lives.
func (h *heldConn) echo(t *testing.T) {
	t.Helper()
	if _, err := h.server.Write([]byte("still here\n")); err != nil {
		t.Error(err)
	}
	if line, err := bufio.NewReader(h.client).ReadString('\n'); err != nil || line != "still here\n" {
		t.Errorf("%q, %v", line, err)
	}
}
