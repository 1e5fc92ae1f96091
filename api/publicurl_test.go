package api_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api"
)

// TestPublicURL: every dialect's links begin with it, whatever the request or a proxy says of hosts.
func TestPublicURL(t *testing.T) {
	const public = "https://capsules.example.org/host-1"
	h := start(t, func(o *api.Options) { o.PublicURL = public })
	token := bearerOf(t, map[string]any{"sub": "boss"})
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		want                     []string // in the header or the body; BASE is the public URL
	}{
		{"nova root", "GET", "/", "", 200, []string{`"href":"BASE/v2/"`, `"href":"BASE/v2.1/"`}},
		{"nova 2.1", "GET", "/v2.1", "", 200, []string{`"href":"BASE/v2.1/"`}},
		{"nova 2", "GET", "/v2/", "", 200, []string{`"href":"BASE/v2/"`}},
		{"nova images", "GET", "/v2.1/images/detail?limit=1", "", 200, []string{`{"rel":"self","href":"BASE/v2.1/images/image-1"}`, `{"rel":"bookmark","href":"BASE/images/image-1"}`,
			`"href":"BASE/image/images/image-1"`, `{"rel":"next","href":"BASE/v2.1/images/detail?limit=1&marker=image-1"}`}},
		{"nova 2 images", "GET", "/v2/images", "", 200, []string{`"href":"BASE/v2/images/image-1"`}},
		{"devstack images", "GET", "/compute/v2.1/images", "", 200, []string{`"href":"BASE/compute/v2.1/images/image-1"`, `"href":"BASE/compute/images/image-1"`}},
		{"synnefo 1.1", "GET", "/api/v1.1/", "", 200, []string{`"href":"BASE/api/v1.1/"`}},
		{"synnefo 1.1, XML", "GET", "/api.xml", "", 200, []string{`href="BASE/api/v1.1/"`}},
		{"synnefo 1.1, Atom", "GET", "/api.atom", "", 200, []string{`<id>BASE/api/v1.1/</id>`, `href="BASE/api/v1.1/"`}},
		{"synnefo 2.0", "GET", "/compute", "", 200, []string{`"href":"BASE/compute/v2.0/"`}},
		{"synnefo 2.0 images", "GET", "/compute/v2.0/images/detail", "", 200, []string{`{"rel":"self","href":"BASE/compute/v2.0/images/image-1"}`, `"href":"BASE/image/v1.0/images/image-1"`}},
		{"glance", "GET", "/image", "", 200, []string{`"href":"BASE/image/v2/"`}},
		{"glance images", "GET", "/image/v2/images", "", 200, []string{`"first":"/v2/images"`}}, // below the catalog's address of the service
		{"glance create", "POST", "/image/v2/images", `{"name":"g"}`, 201, []string{"Location: BASE/image/v2/images/image-"}},
		{"horizon create", "PUT", "/api/glance/images/", `{"name":"h","source_type":"file-direct","data":"f"}`, 201,
			[]string{"Location: BASE/api/glance/images/h\n", `"upload_url":"BASE/image/v2/images/image-`}},
		{"horizon fetch", "PUT", "/api/glance/images/", `{"name":"u","source_type":"url","image_url":"https://images.example/u"}`, 201,
			[]string{"Location: BASE/api/glance/images/u\n", "Operation-Location: BASE/v1/operations/op-"}},
		{"keystone", "GET", "/identity", "", 300, []string{`"href":"BASE/identity/v3/"`, `"href":"BASE/identity/v2.0/"`}},
		{"keystone 3", "GET", "/identity/v3", "", 200, []string{`"href":"BASE/identity/v3/"`}},
		{"catalog 3", "GET", "/identity/v3/auth/catalog", "", 200, []string{`"url":"BASE/v2.1"`, `"url":"BASE/image"`, `"url":"BASE/identity"`, `"self":"BASE/identity/v3/auth/catalog"`}},
		{"catalog 2", "POST", "/identity/v2.0/tokens", "", 200, []string{`"publicURL":"BASE/v2.1"`, `"adminURL":"BASE/image"`, `"internalURL":"BASE/identity"`}},
		{"native", "POST", "/v1/images", `{"name":"n"}`, 201, []string{"Location: BASE/v1/images/image-"}},
		{"native operation", "POST", "/v1/images/image-1/verify", "", 202, []string{"Operation-Location: BASE/v1/operations/op-"}},
		{"capsule operation", "POST", "/createvm", createForm, 200, []string{"Operation-Location: BASE/v1/operations/op-"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request(t, row.method, h.tcpURL+row.path, row.body, token, "X-Requested-With: XMLHttpRequest")
			if strings.HasPrefix(row.body, "{") {
				r.Header.Set("Content-Type", "application/json")
			}
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix"} {
				r.Header.Set(name, "elsewhere")
			}
			a := do(t, h.tcp, r)
			var said strings.Builder
			for name := range a.Header {
				said.WriteString(name + ": " + a.Header.Get(name) + "\n")
			}
			said.WriteString("\n" + a.body)
			if a.StatusCode != row.status {
				t.Errorf("%d, want %d", a.StatusCode, row.status)
			}
			for _, want := range row.want {
				if want = strings.ReplaceAll(want, "BASE", public); !strings.Contains(said.String(), want) {
					t.Errorf("there is no %s", want)
				}
			}
			for _, never := range []string{"//127.0.0.1", "elsewhere", public + public} {
				if strings.Contains(said.String(), never) {
					t.Errorf("%s is in it", never)
				}
			}
			if t.Failed() {
				t.Log(said.String())
			}
		})
	}
	if a := h.remote(t, "GET", "/v2.1/images", ""); a.Header.Get("WWW-Authenticate") != `Keystone uri="`+public+`/identity"` {
		t.Errorf("challenge %v", a.Header)
	}
}

func TestCheckPublicURL(t *testing.T) {
	for _, good := range []string{"https://h", "http://h", "https://capsules.example.org", "https://capsules.example.org:8443/a/b-c_d.e~f", "http://192.0.2.1:1", "https://[2001:db8::1]:65535/x"} {
		if err := api.CheckPublicURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "h", "h/x", "//h", "/x", "ftp://h", "HTTPS://h", "https:h", "https://", "https:///x", "https://:443", "https://h:", "https://h:0", "https://h:65536",
		"https://h:x", "https://h/", "https://h/x/", "https://h//x", "https://h/../x", "https://h/.", "https://h/%41", "https://h/a b", "https://h/é", "https://h?", "https://h?x=y", "https://h#",
		"https://h#x", "https://u@h", "https://u:p@h", "https://@h", "https://h/x\n", "https://h\"x", "https://h x", "https://h/<x>", "https://h/x;y", " https://h", "https://[::1", "https://[x]"} {
		if err := api.CheckPublicURL(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	opt := optionsFor("", "")
	opt.PublicURL = "https://h/"
	if _, err := api.New(opt); err == nil || !strings.Contains(err.Error(), `PublicURL "https://h/" must be`) {
		t.Errorf("a server with a bad one: %v", err)
	}
}
