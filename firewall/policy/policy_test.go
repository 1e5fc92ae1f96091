package policy_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/firewall/policy"
)

// wantFault fails the test unless err holds the wanted text, or is nil when "" is wanted.
func wantFault(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestParseTOML(t *testing.T) {
	rule := "[[rule]]\nprotocol=\"tcp\"\nports=[\"443\"]\npeers="
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"syntax", "dns =\n", "p.toml:1: not TOML"},
		{"key twice", "dhcp=true\ndhcp=true\n", "p.toml:2: not TOML"},
		{"escape in a key", "\"\\u001b[2J\"=1\n", `p.toml:1: unknown key "\x1b[2J"`},
		{"not UTF-8", "comment=\"\xff\"", "p.toml:1: not TOML"},
		{"rule as a table", "[rule]\npeers=[\"host\"]", "p.toml:1: rule is a table: want a line [[rule]]"},
		{"rule as text", "rule=\"x\"", "p.toml:1: rule is \"x\": want a line [[rule]]"},
		{"rules inline", "rule=[{peers=[\"host\"]},\n{peers=[\"x\"]}]", "p.toml:1: rule is a list: want a line [[rule]]"},
		{"hosts as text", "hosts=\"x\"", "p.toml:1: hosts is \"x\""},
		{"peers as text", rule + "\"host\"", "p.toml:4: peers is \"host\": want a list"},
		{"peers of dates", rule + "[1979-05-27]", "p.toml:4: peers has a date"},
		{"upper case", rule + "[\"HOST\"]", ""},
		{"zeros before", rule + "[\"192.0.02.1\"]", "\"192.0.02.1\" is no IPv4 address"},
		{"mapped", rule + "[\"::ffff:192.0.2.1\"]", "is IPv6, which is always closed"},
		{"zone", rule + "[\"fe80::1%eth0\"]", "is IPv6, which is always closed"},
		{"other zero prefix", rule + "[\"10.0.0.0/0\"]", "say \"anywhere\""},
		{"half of the net", rule + "[\"0.0.0.0/1\"]", ""},
		{"this network", rule + "[\"0.0.0.0/8\"]", "0.0.0.0/8 is this network"},
		{"reserved prefix", rule + "[\"224.0.0.0/3\"]", ""},
		{"link-local prefix", rule + "[\"169.254.0.0/17\"]", "link-local"},
		{"name with a dot", rule + "[\"a.example.\"]", "ends in a dot"},
		{"dash first", rule + "[\"-a.example\"]", "begins or ends with -"},
		{"long part", rule + "[\"" + strings.Repeat("a", 64) + ".example\"]", "a part of 64 characters"},
		{"long name", rule + "[\"" + strings.Repeat("a.", 127) + "b\"]", "a name of 255 characters"},
		{"empty name", rule + "[\"\"]", "a name of 0 characters"},
		{"like an address", rule + "[\"a.1\"]", "ends like an address"},
		{"signed port", "[[rule]]\nprotocol=\"tcp\"\npeers=[\"host\"]\nports=[\"+1\"]", "p.toml:4: \"+1\" is no port"},
		{"ports of any", "[[rule]]\npeers=[\"host\"]\nports=[\"1\"]", "p.toml:3: ports with protocol \"any\""},
		{"brackets", "a=" + strings.Repeat("{a=", 1<<18), "p.toml:1: more than 16 brackets"},
		{"key of parts", strings.Repeat("a.", 1<<18) + "a=1", "p.toml:1: more than 16 brackets"},
		{"brackets in text and comments", "# " + strings.Repeat("[", 40) + "\ncomment=\"" + strings.Repeat("[", 40) + "\"", ""},
		{"large", strings.Repeat("#", 1<<20+1), "p.toml: the file has 1048577 bytes"},
		{"rules", strings.Repeat("[[rule]]\npeers=[\"anywhere\"]\n", 257), "257 rules: want at most 256"},
		{"deny in secure", "secure=true\n[[rule]]\naction=\"deny\"\npeers=[\"anywhere\"]", ""},
		{"dhcp in secure", "secure=true\ndhcp=true", ""},
		{"port 67 in secure", "secure=true\n[[rule]]\nprotocol=\"udp\"\npeers=[\"203.0.113.9\"]\nports=[\"67\"]", "p.toml:5: allows port 67 or 68"},
		{"port 68 in secure", "secure=true\n[[rule]]\nprotocol=\"udp\"\ndirection=\"in\"\npeers=[\"203.0.113.9\"]\nports=[\"68\"]", "p.toml:6: allows port 67 or 68"},
		{"long text", "comment=\"\"\"\n[[rule]]\n\"\"\"\n[[rule]]\n", "p.toml:4: a rule without peers"},
		{"in anywhere in secure", "secure=true\n[[rule]]\ndirection=\"in\"\nprotocol=\"tcp\"\nports=[\"80\"]\npeers=[\"anywhere\"]", "p.toml:6: allows \"anywhere\""},
		{"eighth of the net in secure", "secure=true\n" + rule + "[\"10.0.0.0/8\"]", ""},
		{"name without addresses is not anywhere", "secure=true\n[hosts]\n\"a.b\"=[\"x\"]\n" + rule + "[\"a.b\"]",
			"p.toml:3: \"x\" is no IPv4 address: want one such as \"192.0.2.10\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.ParseTOML("p.toml", []byte(tt.text))
			wantFault(t, err, tt.want)
			if err != nil && cmp.Diff(policy.Policy{}, p) != "" {
				t.Errorf("with a fault, and yet %+v", p)
			}
			if tt.name == "name without addresses is not anywhere" && strings.Contains(err.Error(), "\n") {
				t.Errorf("one fault gave several: %v", err)
			}
		})
	}
}

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"a.toml": "", "secure-9.toml": "", "dir/x.toml": "", strings.Repeat("a", 24) + ".toml": "",
		"9.toml": "the name", ".toml": "the name", "A.toml": "the name", "a_b.toml": "the name", "a.b.toml": "the name",
		strings.Repeat("a", 25) + ".toml": "the name", "a.yaml": "want .toml or .fw", "a": "want .toml or .fw",
	} {
		_, err := policy.Parse(name, nil)
		wantFault(t, err, want)
	}
}

// TestLines: each rule and each item of a list is told by its own line, wherever brackets, quotes and comments stand.
func TestLines(t *testing.T) {
	const text = `comment = "" # """
# """ [
"secure" = false # [[rule]]

[hosts] # x
'lit.example' = [ # ]
  "192.0.2.1", # "

  '192.0.2.2', ]
[[ rule ]]
peers = ["lit.example"]
comment = '\'
[[rule]]
comment = "a \" [ b"
peers = ["203.0.113.0/24", "203.0.113.9",
 "198.51.100.1"
 , "x.example"]
`
	_, err := policy.ParseTOML("p.toml", []byte(text))
	want := "p.toml:15: 203.0.113.9 is inside of 203.0.113.0/24: leave one out\np.toml:17: name \"x.example\" is not in [hosts]"
	wantFault(t, err, want)
	p, err := policy.ParseTOML("p.toml", []byte(strings.NewReplacer(`, "203.0.113.9"`, "", `"x.example"`, "").Replace(text)))
	if err != nil {
		t.Fatal(err)
	}
	if p.Rules[0].Line != 10 || p.Rules[1].Line != 13 {
		t.Errorf("rules of lines %d and %d, want 10 and 13", p.Rules[0].Line, p.Rules[1].Line)
	}
}

// TestValidate: what no file can say, and code can.
func TestValidate(t *testing.T) {
	good := policy.Policy{Name: "p", Rules: []policy.Rule{{Line: 3, Protocol: policy.TCP, Ports: []policy.PortRange{{Low: 1, High: 2}}}}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		name   string
		change func(*policy.Policy, *policy.Rule)
		want   string
	}{
		{"no name", func(p *policy.Policy, _ *policy.Rule) { p.Name = "" }, "the name"},
		{"dns", func(p *policy.Policy, _ *policy.Rule) { p.DNS = 7 }, "dns is unknown(7)"},
		{"direction", func(_ *policy.Policy, r *policy.Rule) { r.Direction = -1 }, "direction is unknown(-1)"},
		{"protocol", func(_ *policy.Policy, r *policy.Rule) { r.Protocol = 9 }, "protocol is unknown(9)"},
		{"host and peers", func(_ *policy.Policy, r *policy.Rule) { r.Host, r.Peers = true, []netip.Prefix{prefix("192.0.2.1/32")} }, "want two"},
		{"no prefix", func(_ *policy.Policy, r *policy.Rule) { r.Peers = make([]netip.Prefix, 1) }, "an empty prefix"},
		{"IPv6", func(_ *policy.Policy, r *policy.Rule) { r.Peers = []netip.Prefix{prefix("2001:db8::/32")} }, "IPv6"},
		{"name without its address", func(p *policy.Policy, r *policy.Rule) {
			p.Hosts = map[string][]netip.Addr{"a": {netip.MustParseAddr("192.0.2.1")}}
			r.Names, r.Peers = []string{"a"}, []netip.Prefix{prefix("192.0.2.2/32")}
		}, "192.0.2.1 of the name \"a\" is not among"},
		{"unknown name", func(_ *policy.Policy, r *policy.Rule) { r.Names = []string{"a"} }, "not in [hosts]"},
		{"name in upper case", func(p *policy.Policy, _ *policy.Rule) { p.Hosts = map[string][]netip.Addr{"A": nil} }, "name \"A\""},
		{"ports the wrong way", func(_ *policy.Policy, r *policy.Rule) { r.Ports[0].Low = 3 }, "the lower first"},
		{"port 0", func(_ *policy.Policy, r *policy.Rule) { r.Ports[0].Low = 0 }, "want 1 to 65535"},
		{"many ports", func(_ *policy.Policy, r *policy.Rule) { r.Ports = make([]policy.PortRange, 16) }, "want at most 15"},
		{"many peers", func(_ *policy.Policy, r *policy.Rule) { r.Peers = make([]netip.Prefix, 65) }, "want at most 64"},
		{"empty address", func(p *policy.Policy, _ *policy.Rule) { p.Hosts = map[string][]netip.Addr{"a": {{}}} }, "an empty address"},
		{"escape in a comment", func(_ *policy.Policy, r *policy.Rule) { r.Comment = "\x1b[2J" }, "printable"},
		{"comment from right to left", func(p *policy.Policy, _ *policy.Rule) { p.Comment = "\u202e" }, "printable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := good
			r := good.Rules[0]
			r.Ports = []policy.PortRange{r.Ports[0]}
			tt.change(&p, &r)
			p.Rules = []policy.Rule{r}
			wantFault(t, p.Validate(), tt.want)
		})
	}
}

// TestShipped: the secure ones let nothing pass, and their examples are policies once their # is gone.
func TestShipped(t *testing.T) {
	for _, name := range policy.ShippedNames() {
		p, ok := policy.Shipped(name)
		if !ok || p.Name != name || p.Validate() != nil {
			t.Fatalf("%s: %v %+v %v", name, ok, p, p.Validate())
		}
		if name == policy.Maintenance {
			want := policy.Policy{Name: name, DHCP: true, DNS: policy.Forward, SSH: true, Rules: []policy.Rule{{}}}
			if d := cmp.Diff(want, p, cmpopts.IgnoreFields(policy.Policy{}, "Source", "Digest", "Comment"),
				cmpopts.IgnoreFields(policy.Rule{}, "Line", "Comment")); d != "" {
				t.Error(d)
			}
			continue
		}
		if !p.Secure || p.DHCP || p.DNS != policy.NoDNS || p.SSH || len(p.Rules) > 0 {
			t.Errorf("%s is not closed: %+v", name, p)
		}
		text := uncommented(t, name)
		full, err := policy.ParseTOML(name+".toml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(full.Rules) == 0 || len(full.Hosts) == 0 || !full.Secure {
			t.Errorf("the examples of %s say nothing: %+v", name, full)
		}
	}
	if _, ok := policy.Shipped("other"); ok {
		t.Error("a policy that is not shipped")
	}
}

// TestDocumented: the worked example of docs/policies.md is a policy, and means what is said there.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```toml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no example")
	}
	p, err := policy.ParseTOML("secure.toml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	prose := strings.Join(strings.Fields(string(text)), " ")
	for packet, why := range map[string]string{
		"tcp to data.example.org:443": "allowed by line 15 of secure.toml (the data API)",
		"tcp to 198.51.100.66:443":    "dropped by line 10",
		"udp to host:53":              "answered from the static table of 1 names, never forwarded",
		"tcp to 203.0.113.9:443":      "dropped, no rule",
	} {
		pk, err := p.Packet(packet)
		if err != nil {
			t.Fatal(err)
		}
		if v := p.Explain(pk); !strings.Contains(v.Why, why) || !strings.Contains(prose, packet) || !strings.Contains(prose, why) {
			t.Errorf("%s: %+v, want %q and to find both in the page", packet, v, why)
		}
	}
}
