package imagestore

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestClosedAddresses(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2a00:1::7")}
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, tt := range []struct {
		address      string
		open, opened bool // with no rule, and with a rule that opens everything
	}{
		{"93.184.216.34", true, true}, {"2a00:1450::1", true, true}, {"64:ff9b::5db8:d822", true, true}, {"::ffff:93.184.216.34", true, true},
		{"10.0.0.1", false, true}, {"172.31.255.255", false, true}, {"172.32.0.1", true, true}, {"192.168.1.1", false, true},
		{"100.127.0.1", false, true}, {"198.19.0.1", false, true}, {"fd00:ec2::254", false, true}, {"64:ff9b::a00:1", false, true},
		{"203.0.113.7", false, true}, {"2a00:1::7", false, true}, {"::ffff:203.0.113.7", false, true},
		{"127.0.0.1", false, false}, {"127.255.255.254", false, false}, {"0.0.0.0", false, false}, {"0.1.2.3", false, false},
		{"169.254.169.254", false, false}, {"224.0.0.1", false, false}, {"255.255.255.255", false, false}, {"240.0.0.1", false, false},
		{"::1", false, false}, {"::", false, false}, {"::ffff:127.0.0.1", false, false}, {"::127.0.0.1", false, false},
		{"::ffff:0:127.0.0.1", false, false}, {"64:ff9b::7f00:1", false, false}, {"64:ff9b::a9fe:a9fe", false, false},
		{"64:ff9b:1::7f00:1", false, false}, {"2002:7f00:1::", false, false}, {"2001:0:1::1", false, false},
		{"fe80::1", false, false}, {"fe80::1%eth0", false, false}, {"ff02::1", false, false}, {"fec0::1", false, false},
	} {
		a := netip.MustParseAddr(tt.address)
		if why := (FetchRules{}).closed(a, own); (why == "") != tt.open {
			t.Errorf("%s: %q", a, why)
		}
		if why := (FetchRules{Private: everything}).closed(a, own); (why == "") != tt.opened {
			t.Errorf("%s with everything opened: %q", a, why)
		}
		if why := (FetchRules{Private: everything, Deny: everything}).closed(a, own); why == "" {
			t.Errorf("%s is denied and open", a)
		}
	}
}

func TestFetchRulesCheck(t *testing.T) {
	for _, tt := range []struct {
		entry string
		good  bool
	}{
		{"example.org", true}, {"*.example.org", true}, {"example.org:8443", true}, {"192.0.2.1", true}, {"[2001:db8::1]:443", true}, {"[2001:db8::1]", true},
		{"", false}, {"*", false}, {"*.", false}, {"Example.org", false}, {"https://example.org", false}, {"example.org/path", false},
		{"a@example.org", false}, {"exam*ple.org", false}, {"example.org.", false}, {"exämple.org", false},
	} {
		if err := (FetchRules{Allow: []string{tt.entry}}).Check(); (err == nil) != tt.good {
			t.Errorf("%q: %v", tt.entry, err)
		}
	}
	for _, r := range []FetchRules{{Schemes: []string{"ftp"}}, {MinRate: -1}, {Window: -1}, {Timeout: -1}} {
		if r.Check() == nil {
			t.Errorf("%+v", r)
		}
	}
}

// Whatever a URL looks like: if it passes, the host that net/http would connect to is one of those that are allowed.
func FuzzFetchURL(f *testing.F) {
	for _, seed := range []string{
		"https://images.example.org/a", "https://images.example.org:443", "https://images.example.org.", "https://IMAGES.example.org/?q#f",
		"https://a:b@images.example.org/", "https://images.example.org@evil.org/", "https://evil.org\\@images.example.org/", "https://images.example.org:80:443/",
		"https:images.example.org", "//images.example.org", "https://[::1%25images.example.org]/", "https://images.example.org%00.evil.org/",
	} {
		f.Add(seed)
	}
	r := FetchRules{Allow: []string{"images.example.org", "*.mirror.example.org:8443"}}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := r.parse(text)
		if err != nil {
			return
		}
		again, err := url.Parse(u.String()) // as net/http will have it
		if err != nil || again.Scheme != "https" || again.User != nil || u.String() == "" {
			t.Fatal(again, err)
		}
		host, port := strings.TrimSuffix(strings.ToLower(again.Hostname()), "."), again.Port()
		exact := host == "images.example.org" && (port == "" || port == "443")
		below := strings.HasSuffix(host, ".mirror.example.org") && port == "8443"
		if !exact && !below {
			t.Errorf("%q leads to %s", text, again.Host)
		}
	})
}

// A name is read as an upload only if writing that upload gives the same name.
func FuzzUploadName(f *testing.F) {
	const boot = "0123456789abcdef0123456789abcdef"
	f.Add("upload.ABC.any.any." + boot)
	f.Add("upload.ABC.0." + strings.Repeat("a", 64) + "." + boot)
	f.Add("upload.ABC.-1.any." + boot)
	f.Add("upload.ABC.9223372036854775808.any." + boot)
	f.Fuzz(func(t *testing.T, name string) {
		u, ok := parseUploadName(name, boot)
		if ok && (u.name(boot) != name || u.Bytes < -1 || strings.Contains(string(u.ID), ".") || u.ID == "") {
			t.Errorf("%q is %+v", name, u)
		}
	})
}
