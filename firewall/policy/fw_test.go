package policy_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/firewall/policy"
)

// filter is a file with these rules of the filter table, the first on line 2.
func filter(rules ...string) string {
	return "*filter\n" + strings.Join(rules, "\n") + "\nCOMMIT\n"
}

const sshForward = "*nat\n-A PREROUTING -p tcp -m tcp --dport %SSH_PORT% -j DNAT --to-destination %IP%:22\nCOMMIT\n"

// TestFW: what rules of the original mean, line by line.
func TestFW(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "secure true, dhcp false, dns none, ssh false\n"},
		{"nothing accepted", filter("-A FORWARD -j DROP", "-A INPUT -j REJECT --reject-with icmp-port-unreachable"),
			"secure true, dhcp false, dns none, ssh false\n"},
		{"saved with counters", filter(":FORWARD - [0:0]", `[3:180] -A FORWARD -s %IP% -d 192.0.2.1/32 -p tcp -m tcp --dport 443 -m comment --comment "the \"API\"" -j ACCEPT`),
			"secure true, dhcp false, dns none, ssh false\nline 3: allow out tcp [192.0.2.1/32] [] ports [443] \"the \\\"API\\\"\"\n"},
		{"long options", filter("--append FORWARD --source %IP% --destination 192.0.2.9/24 --protocol 17 --match multiport --destination-ports 80,8000:8010 --jump ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nline 2: allow out udp [192.0.2.0/24] [] ports [80 8000-8010] \"\"\n"},
		{"from the bridge", filter("-A FORWARD -i br1 -d 192.0.2.1,198.51.100.1 -p icmp --icmp-type echo-request -j ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nline 2: allow out icmp [192.0.2.1/32 198.51.100.1/32] [] ports [] \"\"\n"},
		{"replies by port", filter("-A FORWARD -s %IP% -d 192.0.2.0/24 -p tcp --dport 80:90 -j ACCEPT", "-A FORWARD -s 192.0.2.1 -d %IP% -p tcp --sport 81 -j ACCEPT", "-A FORWARD -d %IP% -j DROP"),
			"secure true, dhcp false, dns none, ssh false\nline 2: allow out tcp [192.0.2.0/24] [] ports [80-90] \"\"\n"},
		{"replies to high ports", filter("-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -s 192.0.2.1 -p tcp --sport 443 --dport 1024:65535 -j ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nline 2: allow out tcp [192.0.2.1/32] [] ports [443] \"\"\n"},
		{"replies of what never begins", filter("-A FORWARD -s 192.0.2.1 -j DROP", "-A FORWARD -d 192.0.2.2 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -j DROP"),
			"secure true, dhcp false, dns none, ssh false\nline 3: allow out tcp [192.0.2.2/32] [] ports [443] \"\"\n"},
		{"replies by state", filter("-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -m conntrack --ctstate INVALID -j DROP", "-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -m state --state NEW -j ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nline 4: allow out tcp [192.0.2.1/32] [] ports [443] \"\"\n"},
		{"dhcp alone", filter("-A INPUT -s 0.0.0.0 -d 255.255.255.255 -i br1 -p udp --sport 68 --dport 67 -j ACCEPT"),
			"secure true, dhcp true, dns none, ssh false\n"},
		{"names at the host's address", filter("-A INPUT -d 192.168.53.1 -p tcp --dport 53 -j ACCEPT"),
			"secure true, dhcp false, dns static, ssh false\nwarning x.fw:2: 192.168.53.1 is taken for the host's address on the bridge\nwarning x.fw:2: questions for names are answered from a static table, here an empty one, and never forwarded: write the policy in TOML to give it [hosts]\n"},
		{"a refused question stays refused", filter("-A INPUT -p udp --dport 53 -j DROP", "-A INPUT -p tcp --dport 53 -j DROP", "-A INPUT -j ACCEPT"),
			"secure false, dhcp true, dns none, ssh false\nwarning x.fw:4: of the host's services only DHCP and DNS are open, where the original opened all of them\n"},
		{"a service of the host", filter("-A INPUT -p tcp -m multiport --dports 50:60,8080 -j ACCEPT"),
			"secure true, dhcp false, dns static, ssh false\nline 2: allow out tcp host ports [50-52 54-60 8080] \"\"\nwarning x.fw:2: questions for names are answered from a static table, here an empty one, and never forwarded: write the policy in TOML to give it [hosts]\n"},
		{"ssh alone", sshForward + filter("-A FORWARD -d %IP% -p tcp --dport 22 -j ACCEPT"), "secure false, dhcp false, dns none, ssh true\n"},
		{"behind the end", filter("-A FORWARD -j DROP", "-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nwarning x.fw:3: never reached: a rule before it takes everything\n"},
		{"behind the end of INPUT", filter("-A INPUT -j DROP", "-A INPUT -p udp --dport 53 -j ACCEPT"),
			"secure true, dhcp false, dns none, ssh false\nwarning x.fw:3: never reached: a rule before it takes everything\n"},
		{"closed already", filter("-A FORWARD -d 224.0.0.0/4 -j DROP", "-A FORWARD -j ACCEPT"),
			"secure false, dhcp false, dns none, ssh false\nline 3: allow out any anywhere ports [] \"\"\n"},
		{"returned is rejected", filter("-A FORWARD -d 192.0.2.1 -j RETURN", "-A FORWARD -s %IP% -j ACCEPT"),
			"secure false, dhcp false, dns none, ssh false\nline 2: deny out any [192.0.2.1/32] [] ports [] \"\"\nline 3: allow out any anywhere ports [] \"\"\n"},
		{"default of a chain", filter(":FORWARD ACCEPT [0:0]"),
			"secure true, dhcp false, dns none, ssh false\nwarning x.fw:2: the default of a chain is not used: what no rule accepts is dropped\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.ParseFW("x.fw", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimPrefix(describe(p), "policy x: \"\"\n"); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

// fwFaults are files of the original that cannot be said as a policy.
var fwFaults = []struct{ name, text, want string }{
	{"no table", "-A FORWARD -j DROP\n", "x.fw:1: \"-A FORWARD -j DROP\" stands in no table"},
	{"no COMMIT", "*filter\n-A FORWARD -j DROP\n", "x.fw:1: no COMMIT ends table \"filter\""},
	{"table in a table", "*nat\n*filter\nCOMMIT\n", "x.fw:2: table \"*filter\" begins before COMMIT"},
	{"other table", "*raw\nCOMMIT\n", "x.fw:1: table \"*raw\" is not understood"},
	{"a chain of its own", filter(":mine - [0:0]"), "x.fw:2: \":mine - [0:0]\" declares a chain of its own"},
	{"in no known chain", filter("-A mine -j DROP"), "x.fw:2: chain \"mine\""},
	{"jump", filter("-A FORWARD -j mine"), "x.fw:2: target \"mine\""},
	{"log", filter("-A FORWARD -j LOG"), "x.fw:2: target \"LOG\""},
	{"delete", filter("-D FORWARD -j DROP"), "x.fw:2: \"-D FORWARD -j DROP\": want a line that begins with -A"},
	{"no verdict", filter("-A FORWARD -d 192.0.2.1"), "x.fw:2: a rule without -j"},
	{"negation", filter("-A FORWARD ! -d 192.0.2.1 -j DROP"), "x.fw:2: negation with !"},
	{"old negation", filter("-A FORWARD -d ! 192.0.2.1 -j DROP"), "x.fw:2: negation with !"},
	{"twice", filter("-A FORWARD -p tcp --dport 1 --dports 2 -j DROP"), "x.fw:2: \"--dport\" is there twice"},
	{"other option", filter("-A FORWARD -p tcp --syn -j DROP"), "x.fw:2: option \"--syn\" is not understood"},
	{"other match", filter("-A FORWARD -m limit --limit 1/s -j DROP"), "x.fw:2: match \"limit\" is not understood"},
	{"no value", filter("-A FORWARD -j"), "x.fw:2: nothing after \"-j\""},
	{"open quote", filter("-A FORWARD -m comment --comment \"x -j DROP"), "x.fw:2: a quote is not closed"},
	{"name for an address", filter("-A FORWARD -d data.example.org -j DROP"), "x.fw:2: \"data.example.org\" is no IPv4"},
	{"name for a port", filter("-A FORWARD -p tcp --dport https -j DROP"), "x.fw:2: \"https\" is no port"},
	{"ports of any protocol", filter("-A FORWARD --dport 1 -j DROP"), "x.fw:2: ports without -p tcp or -p udp"},
	{"other protocol", filter("-A FORWARD -p gre -j DROP"), "x.fw:2: protocol \"gre\""},
	{"other interface", filter("-A FORWARD -i eth0 -j DROP"), "x.fw:2: interface \"eth0\": want br1"},
	{"other state", filter("-A FORWARD -m state --state UNTRACKED -j DROP"), "x.fw:2: state \"UNTRACKED\""},
	{"drop of connections", filter("-A FORWARD -m state --state ESTABLISHED -j DROP"), "x.fw:2: a rule about states"},
	{"ICMP type", filter("-A FORWARD -p icmp --icmp-type 3 -j DROP"), "x.fw:2: ICMP type \"3\""},
	{"all of ICMP", filter("-A FORWARD -p icmp -j DROP"), "x.fw:2: denies all of ICMP"},
	{"source port", filter("-A FORWARD -s %IP% -p tcp --sport 1 -j ACCEPT"), "x.fw:2: source ports of what the capsule sends"},
	{"both ends", filter("-A FORWARD -s %IP% -d %IP% -j DROP"), "x.fw:2: a rule from the capsule to itself"},
	{"neither end", filter("-A FORWARD -s 192.0.2.1 -d 192.0.2.2 -j DROP"), "x.fw:2: neither end is the capsule"},
	{"two sources", filter("-A FORWARD -i br1 -s 192.0.2.1 -j DROP"), "x.fw:2: both the bridge or %IP% and another"},
	{"peers begin", filter("-A FORWARD -d %IP% -p tcp --dport 80 -j ACCEPT"), "x.fw:2: lets peers begin connections"},
	{"replies of nothing", filter("-A FORWARD -s 192.0.2.1 -p tcp --sport 443 -j ACCEPT"), "x.fw:2: lets peers begin connections"},
	{"replies of more ports", filter("-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -s 192.0.2.1 -p tcp --sport 442:443 -j ACCEPT"), "x.fw:3: lets peers begin connections"},
	{"replies of more peers", filter("-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -s 192.0.2.0/24 -p tcp --sport 443 -j ACCEPT"), "x.fw:3: lets peers begin connections"},
	{"replies of more peers than one", filter("-A FORWARD -d 192.0.2.0 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -s 192.0.2.0/24 -p tcp --sport 443 -j ACCEPT"), "x.fw:3: lets peers begin connections"},
	{"peers begin with a port", sshForward + filter("-A FORWARD -d 192.0.2.1 -j ACCEPT", "-A FORWARD -s 192.0.2.1 -p tcp --dport 80 -j ACCEPT"), "x.fw:6: lets peers begin connections"},
	{"replies of all", filter("-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT", "-A FORWARD -d %IP% -j ACCEPT"), "x.fw:3: lets peers begin connections"},
	{"dropped replies", filter("-A FORWARD -s 192.0.2.1 -j DROP", "-A FORWARD -j ACCEPT"), "x.fw:2: drops replies of connections"},
	{"ssh from one alone", sshForward + filter("-A FORWARD -s 192.0.2.1 -d %IP% -p tcp --dport 22 -j DROP"), "x.fw:5: drops replies of connections"},
	{"another forward", "*nat\n-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination %IP%:80\nCOMMIT\n", "x.fw:2: a rule of nat that is not understood"},
	{"forward from one alone", "*nat\n-A PREROUTING -s 192.0.2.1 -p tcp --dport %SSH_PORT% -j DNAT --to-destination %IP%:22\nCOMMIT\n", "x.fw:2: a rule of nat"},
	{"forward elsewhere", "*nat\n-A PREROUTING -p tcp --dport %SSH_PORT% -j DNAT --to-destination 192.0.2.1:22\nCOMMIT\n", "x.fw:2: a rule of nat"},
	{"mark", "*mangle\n-A POSTROUTING -j DROP\nCOMMIT\n", "x.fw:2: a rule of mangle that is not understood"},
	{"forwarded port in filter", filter("-A FORWARD -p tcp --dport %SSH_PORT% -j ACCEPT"), "x.fw:2: a rule of filter that is not understood"},
	{"destination of INPUT", filter("-A INPUT -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT"), "x.fw:2: INPUT names a destination"},
	{"two hosts", filter("-A INPUT -d 192.168.53.1 -p udp --dport 67 -j ACCEPT", "-A INPUT -d 192.168.53.2 -p udp --dport 53 -j ACCEPT"), "x.fw:3: INPUT names a destination"},
	{"broadcast", filter("-A INPUT -d 255.255.255.255 -p udp --dport 137 -j ACCEPT"), "x.fw:2: a broadcast"},
	{"anywhere, and closed at the end", filter("-A FORWARD -p tcp --dport 443 -j ACCEPT", "-A FORWARD -j DROP"), "x.fw:2: allows \"anywhere\" in a secure policy"},
	{"every port", filter("-A FORWARD -d 192.0.2.1 -j ACCEPT"), "x.fw:2: allows every protocol in a secure policy"},
	{"a resolver", filter("-A FORWARD -d 192.0.2.1 -p udp --dport 53 -j ACCEPT"), "x.fw:2: allows port 53 (DNS) in a secure policy"},
	{"loopback", filter("-A FORWARD -d 127.0.0.1 -p tcp --dport 80 -j ACCEPT"), "x.fw:2: 127.0.0.1 is loopback"},
	{"all faults at once", filter("-A FORWARD -j LOG", "-A FORWARD -p gre -j DROP"), "\nx.fw:3: protocol"},
	{"large", strings.Repeat("#", 1<<20+1), "x.fw: the file has 1048577 bytes"},
}

// TestFWFaults: what cannot be said as a policy is told with its line, and nothing is returned.
func TestFWFaults(t *testing.T) {
	for _, tt := range fwFaults {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.ParseFW("x.fw", []byte(tt.text))
			wantFault(t, err, tt.want)
			if err != nil && (p.Name != "" || len(p.Rules)+len(p.Warnings) > 0) {
				t.Errorf("with a fault, and yet %+v", p)
			}
		})
	}
}
