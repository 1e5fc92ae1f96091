package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/golden"
)

// badSum is what tcpdump says of a checksum that does not fit.
var badSum = regexp.MustCompile(`(bad|wrong) [a-z0-9]* ?(ck)?sum.*|\(incorrect.*`)

// card is a network card that writes its frames down.
func card(t *testing.T) (*nic, func() [][]byte) {
	t.Helper()
	var sent [][]byte
	n := &nic{mac: net.HardwareAddr{2, 0, 0x53, 0, 0, 1}, ip: netip.MustParseAddr("192.168.53.2")}
	n.write = func(f []byte) error { sent = append(sent, f); return nil }
	return n, func() [][]byte { return sent }
}

// frames of this script, as tcpdump reads them.
const script = `
plain       frame ethertype=0x88b5
llc         frame ethertype=64 head=aaaa03
lldp        frame to=01:80:c2:00:00:0e ethertype=0x88cc head=02070402005300000104050765746830060200780000
stp         frame to=01:80:c2:00:00:00 ethertype=38 head=42420300000000008000020053000001000000008000020053000001800100001400020f00
eapol       frame to=01:80:c2:00:00:03 ethertype=0x888e head=01010000
tagged      ip4 dst=192.0.2.1 proto=17 dport=7001 vlan=5
priority    ip4 dst=192.0.2.1 proto=17 dport=7001 vlan=0
twice       ip4 dst=192.0.2.1 proto=17 dport=7001 vlan=5 qinq=6
arp         arp tpa=192.168.53.1
gratuitous  arp
spoofed     arp op=reply sha=02:00:53:00:00:02 spa=192.168.53.3 tpa=192.168.53.1 tha=02:00:53:00:00:09
syn         ip4 dst=192.0.2.1 proto=6 dport=443
ack         ip4 dst=192.0.2.1 proto=6 dport=443 flags=0x18
datagram    ip4 dst=192.0.2.1 proto=17 dport=53 src=203.0.113.9 from=02:09:09:09:09:09
echo        ip4 dst=192.0.2.1 proto=1
timestamp   ip4 dst=192.0.2.1 proto=1 kind=13
igmp        ip4 dst=224.0.0.251 proto=2
sctp        ip4 dst=192.0.2.1 proto=132 dport=99
gre         ip4 dst=192.0.2.1 proto=47
esp         ip4 dst=192.0.2.1 proto=50
unknown     ip4 dst=192.0.2.1 proto=255
source      ip4 dst=192.0.2.1 proto=17 dport=7001 options=830704c633640200
first       ip4 dst=192.0.2.1 proto=17 dport=7001 pieces=first
rest        ip4 dst=192.0.2.1 proto=17 dport=7001 pieces=rest
tiny        ip4 dst=192.0.2.1 proto=6 dport=7001 pieces=tiny
overlap     ip4 dst=192.0.2.1 proto=17 dport=7001 pieces=overlap
echo6       ip6
udp6        ip6 kind=udp dst=2001:db8:51::2 to=02:00:53:00:00:02
tcp6        ip6 kind=tcp dst=2001:db8:51::2
rs          ip6 kind=rs dst=ff02::2
ra          ip6 kind=ra
ns          ip6 kind=ns dst=ff02::1:ff00:1
na          ip6 kind=na
mld         ip6 kind=mld dst=ff02::16
hostname    dhcp
clientid    dhcp kind=request carry=clientid
vendor      dhcp kind=inform carry=vendor
private     dhcp carry=private chaddr=02:00:53:00:00:02
`

// TestFrames lets tcpdump say what the frames are: it checks lengths and checksums, and knows nothing of this program.
func TestFrames(t *testing.T) {
	attacks, err := readScript(strings.NewReader(script), "x1")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, a := range attacks {
		n, sent := card(t)
		if _, err := a.do(n); err != nil {
			t.Fatalf("%s: %v", a.name, err)
		}
		if !bytes.Contains(bytes.Join(sent(), nil), []byte("x1-"+a.name+"-x1")) {
			t.Errorf("%s: no marker in what it sends", a.name)
		}
		fmt.Fprintf(&got, "== %s\n%s", a.name, decode(t, sent()))
	}
	golden.Check(t, "frames", got.String())
	if fault := badSum.FindString(got.String()); fault != "" {
		t.Errorf("a checksum is wrong: %s", fault)
	}
}

// decode gives frames to tcpdump as a capture file (pcap-savefile(5)).
func decode(t *testing.T, frames [][]byte) string {
	t.Helper()
	var file bytes.Buffer
	for _, v := range []uint32{0xa1b2c3d4, 2 | 4<<16, 0, 0, 65535, 1} {
		_ = binary.Write(&file, binary.LittleEndian, v)
	}
	for _, f := range frames {
		for _, v := range []int{0, 0, len(f), len(f)} {
			_ = binary.Write(&file, binary.LittleEndian, uint32(v))
		}
		file.Write(f)
	}
	cmd := exec.CommandContext(t.Context(), "tcpdump", "-r", "-", "-t", "-nn", "-e", "-vv")
	cmd.Stdin = &file
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tcpdump: %v", err)
	}
	return string(out)
}

// TestFaultyScripts wants every fault of a script named by its line, and nothing run.
func TestFaultyScripts(t *testing.T) {
	for name, row := range map[string]struct {
		script string
		faults []string
	}{
		"no verb":          {"lonely", []string{`line 1: "lonely": an attack has a name and a verb`}},
		"unknown verb":     {"# comment\n\na smash", []string{`line 3: a: no verb "smash": want one of arp,`}},
		"unknown argument": {"a arp speed=1", []string{`no argument "speed"`}},
		"argument twice":   {"a arp op=reply op=reply", []string{`"op=reply": want key=value, each key once`}},
		"no value":         {"a arp op", []string{`"op": want key=value`}},
		"missing":          {"a tcp", []string{"to= is missing"}},
		"not a number":     {"a ip4 dst=192.0.2.1 proto=300", []string{"proto=300", "out of range"}},
		"not an address":   {"a ip4 dst=nowhere", []string{"dst=nowhere"}},
		"not a choice":     {"a ip4 dst=192.0.2.1 pieces=crumbs", []string{"pieces=crumbs: want one of whole, first"}},
		"marker":           {"A arp", []string{`marker "x1-A-x1": want at most 63 small letters`}},
		"two lines":        {"a smash\nb arp op=x", []string{"line 1: a", "line 2: b: op=x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run([]string{"-mark", "x1"}, strings.NewReader(row.script), &out, &errs); code != 2 || out.Len() > 0 {
				t.Errorf("exit code %d, output %q", code, &out)
			}
			for _, want := range row.faults {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("want %q in %q", want, &errs)
				}
			}
		})
	}
}
