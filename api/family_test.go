package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestFamilies: every family is reached by its paths through the whole server, and tells of a panic, of a caller without
// identity and of what does not exist in its own shape.
func TestFamilies(t *testing.T) {
	h := start(t, nil)
	for _, row := range []struct {
		name, open string // answers without an identity
		path       string // asks the daemon
		header     string
		crash      int    // what a panic is to the family
		shape      string // of its refusals
	}{
		{"Nova 2.1", "/v2.1", "/v2.1/images/detail", "", 500, `{"computeFault":{"code":500,`},
		{"Nova 2", "/v2/", "/v2/images", "", 500, `{"computeFault":{"code":500,`},
		{"Synnefo 1.1", "/api/", "/api/v1.1/images", "", 503, `{"serviceUnavailable":{"code":503,`},
		{"Synnefo 2.0", "/compute", "/compute/v2.0/images", "", 500, `{"internalServerError":{"code":500,`},
		{"Horizon", "", "/api/glance/images/", "X-Requested-With: XMLHttpRequest", 500, `"internal error`},
		{"Glance", "/image", "/image/v2/images", "", 500, "internal error"},
		{"identity", "/identity/", "", "", 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.set(func(f *fakeDaemon) { f.before = nil })
			if row.open != "" {
				if a := do(t, h.tcp, request(t, "GET", h.tcpURL+row.open, "")); a.StatusCode >= 400 || !strings.Contains(a.body, "version") {
					t.Errorf("GET %s: %d %s", row.open, a.StatusCode, a.body)
				}
			}
			if row.path == "" {
				return
			}
			ask := func(url string) answer {
				r := request(t, "GET", url+row.path, "")
				if name, value, ok := strings.Cut(row.header, ": "); ok {
					r.Header.Set(name, value)
				}
				if strings.HasPrefix(url, h.tcpURL) {
					return do(t, h.tcp, r)
				}
				return do(t, h.unix, r)
			}
			if a := ask("http://capsuled"); a.StatusCode != 200 || !strings.Contains(a.body, "image-1") {
				t.Errorf("GET %s: %d %s", row.path, a.StatusCode, a.body)
			}
			if a := ask(h.tcpURL); a.StatusCode != 401 {
				t.Errorf("GET %s without an identity: %d %s", row.path, a.StatusCode, a.body)
			}
			h.set(func(f *fakeDaemon) { f.before = func(context.Context) { panic("the secret-place") } })
			if a := ask("http://capsuled"); a.StatusCode != row.crash || !strings.Contains(a.body, row.shape) || strings.Contains(a.body, "secret-place") {
				t.Errorf("GET %s with a panic: %d %s, want %d with %s", row.path, a.StatusCode, a.body, row.crash, row.shape)
			}
		})
	}
}

// TestOneSpelling: a path that names a call only once it is decoded is no call, of whatever family. What stands before this
// server and lets paths through by how they are spelled is not led around.
func TestOneSpelling(t *testing.T) {
	h := start(t, nil)
	for _, path := range []string{
		"/v2%2E1", "/v2.1%2F", "/v2.1%2Fimages", "/v2.1/images%2Fdetail", "/%76%32/images", "/api%2F", "/api/v1.1%2Fimages", "/compute%2Fv2.0/images",
		"/api%2Fglance/images/", "/api/%67lance/images/", "/api/glance%2Fimages/", "/api/glance/%69mages/", "/image%2Fv2%2Fimages", "/image/v2%2Fimages",
		"/image/v2/%69mages", "/image%2F", "/image/v2%2F", "/identity%2Fv3", "/identity/v3%2F", "/identity/v3%2Fauth/projects", "/%69dentity/v3/auth/projects",
		"/v1%2Fimages", "/v1/%69mages", "/sloan-ws%2Flistallimages",
	} {
		r := request(t, "GET", "http://capsuled"+path, "")
		r.Header.Set("X-Requested-With", "XMLHttpRequest")
		if a := do(t, h.unix, r); a.StatusCode != 404 && a.StatusCode != 400 {
			t.Errorf("%s: %d %.80s", path, a.StatusCode, a.body)
		}
		if a := do(t, h.tcp, request(t, "GET", h.tcpURL+path, "")); a.StatusCode < 400 {
			t.Errorf("%s without an identity: %d %.80s", path, a.StatusCode, a.body)
		}
	}
}

// TestHostInChallenge: whatever a caller calls this server, a challenge that names it has one parameter.
func TestHostInChallenge(t *testing.T) {
	h := start(t, nil)
	for _, path := range []string{"/v2.1/images", "/identity/v3/auth/catalog"} {
		r := request(t, "GET", h.tcpURL+path, "")
		r.URL.Opaque = `//x",realm="y` + path // the absolute form of a request's target may have what a Host header may not
		a := do(t, h.tcp, r)
		if got := a.Header.Get("WWW-Authenticate"); a.StatusCode == 401 && !strings.Contains(got, `uri="http://x\",realm=\"y/identity"`) {
			t.Errorf("%s: %d %s", path, a.StatusCode, got)
		} else if a.StatusCode != 401 {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
}

// TestRepliesAtOnce: replies are built in buffers that are used again, and each has what was asked for all the same. What is
// asked for differs by the host, which is in the links.
func TestRepliesAtOnce(t *testing.T) {
	h := start(t, nil)
	token := bearerOf(t, map[string]any{"sub": "alice"})
	var all sync.WaitGroup
	for n := range 16 {
		host := fmt.Sprintf("host-%02d.example.org", n)
		all.Go(func() {
			for range 30 {
				r := request(t, "GET", h.tcpURL+"/v2.1/images/detail", "", token)
				r.Host = host
				a := do(t, h.tcp, r)
				var page struct {
					Images []struct {
						Links []struct{ Href string }
					}
				}
				if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.StatusCode != 200 || len(page.Images) == 0 {
					t.Errorf("%d %v: %s", a.StatusCode, err, a.body)
					return
				}
				for _, i := range page.Images {
					for _, l := range i.Links {
						if !strings.HasPrefix(l.Href, "http://"+host+"/") {
							t.Errorf("%s was answered %s", host, l.Href)
							return
						}
					}
				}
			}
		})
	}
	all.Wait()
}
