package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/internal/testhost"
)

// standing is what was open before the switch: a connection out, one in, and a console.
type standing struct {
	s             *siege
	in            net.Conn
	mine, another *bufio.Reader // consoles of both capsules
	consoles      []net.Conn
}

const (
	flowMark   = "flow0-out-flow0"
	floodMark  = "flood0-out-flood0"
	inwardMark = "SSH-2.0-inward"
)

// establish opens connections of the first capsule, and sees that they work.
func (s *siege) establish(t *testing.T) *standing {
	t.Helper()
	e := &standing{s: s}
	for verb, mark := range map[string]string{"flow": flowMark, "flood": floodMark} {
		guestStart(t, domain(s.a), s.field().names.Replace("out "+verb+" to={world}:7002\n"), probePath, "-mark", verb+"0")
		s.arrived(t, mark, "world:"+testhost.WorldUplink+" in")
	}
	port := fmt.Sprint(s.status(s.a).SSHPort)
	err := inside("world", func() (err error) {
		e.in, err = net.Dial("tcp4", net.JoinHostPort(testhost.HostAddr, port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.in.Close() })
	if line, err := bufio.NewReader(e.in).ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-") {
		t.Fatalf("ssh greets with %q, %v", line, err)
	}
	if _, err := fmt.Fprintf(e.in, "%s-before\r\n", inwardMark); err != nil {
		t.Fatal(err)
	}
	s.arrived(t, inwardMark+"-before", domain(s.a)+" out")
	e.mine, e.another = e.console(t, s.a), e.console(t, s.b)
	return e
}

// console opens a capsule's VNC console, and reads its greeting (RFC 6143, 7.1.1).
func (e *standing) console(t *testing.T, id string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", e.s.status(id).VNCPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "RFB ") {
		t.Fatalf("the console greets with %q, %v", line, err)
	}
	e.consoles = append(e.consoles, conn)
	return r
}

// judge wants what was open to be cut, now that the capsule is in secure mode; what it still sends goes nowhere.
func (e *standing) judge(t *testing.T) {
	t.Run("row 06: established flows", func(t *testing.T) {
		s := e.s
		s.frozen(t, func(*field) { // by the rules alone
			s.linkUp(t)
			s.capture.forget()
			s.count++
			s.arrived(t, flowMark, domain(s.a)+" in") // they try
			s.arrived(t, floodMark, domain(s.a)+" in")
			_, _ = fmt.Fprintf(e.in, "%s-after\r\n", inwardMark)
			s.arrived(t, inwardMark+"-after", testhost.Uplink+" in")
			s.settle(t)
			for _, mark := range []string{flowMark, floodMark, inwardMark} {
				for where := range s.capture.places(mark) {
					if where != domain(s.a)+" in" && where != "world:"+testhost.WorldUplink+" out" && where != testhost.Uplink+" in" && where != "service" {
						t.Errorf("%s goes on, to %s", mark, where)
					}
				}
			}
		})
		s.capture.forget()
		s.count++
		s.floods(t)
		s.settle(t)
		for _, mark := range []string{flowMark, floodMark} {
			if places := s.capture.places(mark); len(places) > 0 {
				t.Errorf("%s goes on while the link is down: %v", mark, places)
			}
		}
	})
	t.Run("row 16: consoles are cut", func(t *testing.T) {
		if err := e.consoles[0].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := e.mine.ReadByte(); err == nil || os.IsTimeout(err) {
			t.Errorf("the console of before is still open: %v", err)
		}
		if _, err := fmt.Fprint(e.consoles[1], "RFB 003.008\n"); err != nil { // another's answers with its kinds of access
			t.Fatal(err)
		}
		if _, err := e.another.ReadByte(); err != nil {
			t.Errorf("another capsule's console was cut: %v", err)
		}
	})
}
