package policy_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/firewall/policy"
)

const explained = `dns = "static"
secure = true
[hosts]
"data.example.org" = ["192.0.2.10", "192.0.2.11"]
[[rule]]
action = "deny"
peers = ["198.51.100.66", "host"]
comment = "not this one"
[[rule]]
protocol = "tcp"
peers = ["data.example.org", "198.51.100.0/24", "host"]
ports = ["443", "8000-8010"]
[[rule]]
protocol = "icmp"
peers = ["203.0.113.1"]
comment = "the router"
[[rule]]
direction = "in"
protocol = "tcp"
peers = ["203.0.113.1"]
ports = ["80"]
`

const opened = `dhcp = true
dns = "forward"
ssh = true
[[rule]]
action = "deny"
peers = ["192.0.2.10"]
[[rule]]
action = "deny"
protocol = "udp"
peers = ["anywhere"]
ports = ["443"]
[[rule]]
action = "deny"
direction = "in"
peers = ["anywhere", ]
[[rule]]
peers = ["anywhere"]
[[rule]]
protocol = "icmp"
peers = ["host"]
`

// explanations are packets, and what becomes of them.
var explanations = []struct {
	policy, packet, why string
	line                int
}{
	{"closed", "tcp to 192.0.2.1:443", "dropped, no rule", 0},
	{"closed", "udp to host:53", "dropped, no rule; dns is \"none\"", 0},
	{"closed", "tcp to host:53", "dropped, no rule; dns is \"none\"", 0},
	{"closed", "udp to host:67", "dropped, no rule; dhcp is off", 0},
	{"closed", "tcp from 203.0.113.9:22", "dropped, no rule; ssh is off", 0},
	{"closed", "other to 192.0.2.1", "dropped, no rule", 0},

	{"secure", "tcp to data.example.org:443", "allowed by line 9 of secure.toml", 9},
	{"secure", "tcp to 192.0.2.11:8010", "allowed by line 9 of secure.toml", 9},
	{"secure", "tcp to 192.0.2.11:8011", "dropped, no rule", 0},
	{"secure", "udp to 192.0.2.11:443", "dropped, no rule", 0},
	{"secure", "tcp from 192.0.2.11:443", "dropped, no rule", 0},
	{"secure", "tcp to 198.51.100.65:443", "allowed by line 9 of secure.toml", 9},
	{"secure", "tcp to 198.51.100.66:443", "dropped by line 5 of secure.toml (not this one)", 5},
	{"secure", "tcp to host:443", "dropped by line 5 of secure.toml (not this one)", 5},
	{"secure", "udp to host:53", "allowed: answered from the static table of 1 names, never forwarded", 0},
	{"secure", "udp to 192.0.2.10:53", "dropped, no rule", 0},
	{"secure", "tcp from host:53", "dropped, no rule", 0},
	{"secure", "icmp to 203.0.113.1", "allowed by line 13 of secure.toml (the router)", 13},
	{"secure", "icmp from 203.0.113.1", "dropped, no rule", 0},
	{"secure", "other to 203.0.113.1", "dropped, no rule", 0},
	{"secure", "tcp from 203.0.113.1:80", "allowed by line 17 of secure.toml", 17},
	{"secure", "tcp to 203.0.113.1:80", "dropped, no rule", 0},

	{"open", "udp to host:67", "allowed: the host's DHCP server", 0},
	{"open", "tcp to host:67", "dropped, no rule", 0},
	{"open", "udp to 192.0.2.1:67", "allowed by line 16 of open.toml", 16},
	{"open", "tcp to host:53", "allowed: the host's resolver, which asks the world", 0},
	{"open", "tcp from 203.0.113.9:22", "allowed, through the host's forwarded port", 0},
	{"open", "tcp to 192.0.2.10:22", "dropped by line 4 of open.toml", 4},
	{"open", "tcp from 203.0.113.9:23", "dropped by line 12 of open.toml", 12},
	{"open", "tcp to 192.0.2.10:443", "dropped by line 4 of open.toml", 4},
	{"open", "other to 192.0.2.10", "dropped by line 4 of open.toml", 4},
	{"open", "udp to 192.0.2.1:443", "dropped by line 7 of open.toml", 7},
	{"open", "other to 192.0.2.1", "allowed by line 16 of open.toml", 16},
	{"open", "tcp to host:80", "dropped, no rule", 0},
	{"open", "icmp to host", "allowed by line 18 of open.toml", 18},
	{"open", "tcp to 169.254.169.254:80", "dropped: 169.254.169.254 is link-local, which is always closed", 0},
	{"open", "udp to 224.0.0.251:5353", "dropped: 224.0.0.251 is multicast, which is always closed", 0},
	{"open", "udp to 255.255.255.255:9", "dropped: 255.255.255.255 is reserved or broadcast, which is always closed", 0},
	{"open", "tcp from 127.0.0.1:22", "dropped: 127.0.0.1 is loopback, which is always closed", 0},
	{"open", "icmp to 0.0.0.0", "dropped: 0.0.0.0 is this network, which is always closed", 0},
}

func TestExplain(t *testing.T) {
	files := map[string]string{"closed": "", "secure": explained, "open": opened}
	for _, tt := range explanations {
		t.Run(tt.policy+"/"+tt.packet, func(t *testing.T) {
			p, err := policy.ParseTOML("dir/"+tt.policy+".toml", []byte(files[tt.policy]))
			if err != nil {
				t.Fatal(err)
			}
			pk, err := p.Packet(tt.packet)
			if err != nil {
				t.Fatal(err)
			}
			v := p.Explain(pk)
			if v.Why != tt.why || v.Line != tt.line || v.Allowed != (tt.why[0] == 'a') {
				t.Errorf("got %+v, want %q of line %d", v, tt.why, tt.line)
			}
		})
	}
	if v := (policy.Policy{SSH: true}).Explain(policy.Packet{Direction: policy.In, Protocol: policy.TCP, Port: 22, Peer: netip.MustParseAddr("2001:db8::1")}); v.Allowed {
		t.Errorf("IPv6: %+v", v)
	}
}

func TestParsePacket(t *testing.T) {
	p := policy.Policy{Hosts: map[string][]netip.Addr{"data.example.org": {netip.MustParseAddr("192.0.2.10")}}}
	addr := netip.MustParseAddr
	for text, want := range map[string]policy.Packet{
		"tcp to 192.0.2.1:443":           {Protocol: policy.TCP, Peer: addr("192.0.2.1"), Port: 443},
		"udp from 192.0.2.7:53":          {Direction: policy.In, Protocol: policy.UDP, Peer: addr("192.0.2.7"), Port: 53},
		" ICMP  to\t192.0.2.1 ":          {Protocol: policy.ICMP, Peer: addr("192.0.2.1")},
		"other to host":                  {Host: true},
		"tcp to host:53":                 {Protocol: policy.TCP, Host: true, Port: 53},
		"tcp to Data.Example.org:1":      {Protocol: policy.TCP, Peer: addr("192.0.2.10"), Port: 1},
		"tcp from 255.255.255.255:65535": {Direction: policy.In, Protocol: policy.TCP, Peer: addr("255.255.255.255"), Port: 65535},
	} {
		got, err := p.Packet(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	for text, want := range map[string]string{
		"":                          "has 0 words",
		"tcp to":                    "has 2 words",
		"tcp to 192.0.2.1 443":      "has 4 words",
		"gre to 192.0.2.1":          "no protocol \"gre\": want tcp, udp, icmp or other",
		"tcp at 192.0.2.1:1":        "\"at\" is no direction",
		"tcp to 192.0.2.1":          "no port",
		"icmp to 192.0.2.1:1":       "icmp has no ports: leave out \":1\"",
		"tcp to 192.0.2.1:0":        "\"0\" is no port",
		"tcp to 192.0.2.1:":         "\"\" is no port",
		"tcp to 192.0.2.1:65536":    "\"65536\" is no port",
		"tcp to [2001:db8::1]:443":  "is IPv6, which is always closed",
		"icmp to 2001:db8::1":       "is IPv6, which is always closed",
		"tcp to data.example.com:1": "no peer \"data.example.com\"",
		"tcp to :1":                 "no peer \"\"",
		"tcp to 192.0.2.0/24:1":     "no peer \"192.0.2.0/24\"",
	} {
		_, err := p.Packet(text)
		wantFault(t, err, want)
	}
	if _, err := (policy.Policy{}).Packet("tcp to data.example.org:1"); err == nil {
		t.Error("a name without a policy")
	}
}
