package horizon_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/horizon"
	"github.com/capsuled/capsuled/daemon"
)

const unknownID = "00000000-0000-4000-8000-000000000000"

func TestSpeaks(t *testing.T) {
	f := horizon.New(nil)
	for path, want := range map[string]bool{"/api/glance": true, "/api/glance/": true, "/api/glance/images/x": true, "/api/glances": false, "/api/": false,
		"/api/v1.1/images": false, "/x/api/glance/": false} {
		if f.Speaks(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

// TestRoutes asks each route as it is meant, with and without the slash that ends it, and looks at how metrics call it.
func TestRoutes(t *testing.T) {
	for _, row := range []struct {
		method, path, body string
		status             int
		route              string
	}{
		{"GET", "/version/", "", 200, "GET /api/glance/version/"},
		{"HEAD", "/version/", "", 200, "GET /api/glance/version/"},
		{"GET", "/images/", "", 200, "GET /api/glance/images/"},
		{"PUT", "/images/", `{"name":"n"}`, 201, "PUT /api/glance/images/"},
		{"POST", "/images/", `{"name":"n"}`, 201, "POST /api/glance/images/"},
		{"GET", "/images/ID/", "", 200, "GET /api/glance/images/*/"},
		{"PATCH", "/images/ID/", `{"name":"n"}`, 204, "PATCH /api/glance/images/*/"},
		{"DELETE", "/images/ID/", "", 204, "DELETE /api/glance/images/*/"},
		{"GET", "/images/ID/properties/", "", 200, "GET /api/glance/images/*/properties/"},
		{"PATCH", "/images/ID/properties/", `{"updated":{}}`, 204, "PATCH /api/glance/images/*/properties/"},
		{"GET", "/metadefs/namespaces/", "", 200, "GET /api/glance/metadefs/namespaces/"},
		{"GET", "/metadefs/resourcetypes/", "", 200, "GET /api/glance/metadefs/resourcetypes/"},
	} {
		for _, path := range []string{row.path, strings.TrimSuffix(row.path, "/")} {
			t.Run(row.method+" "+path, func(t *testing.T) {
				w := newWorld(t)
				path := strings.Replace(path, "ID", w.active(daemon.Image{}), 1)
				a := w.ajax(row.method, "/api/glance"+path, row.body)
				expect(t, a, row.status, "")
				if a.Route != row.route {
					t.Errorf("metrics call it %q", a.Route)
				}
			})
		}
	}
}

// TestEveryRouteRefuses finds that each route wants an identity first, then AJAX, then JSON.
func TestEveryRouteRefuses(t *testing.T) {
	for _, route := range []string{"GET /version/", "GET /images/", "PUT /images/", "POST /images/", "GET /images/ID/", "PATCH /images/ID/", "DELETE /images/ID/",
		"GET /images/ID/properties/", "PATCH /images/ID/properties/", "GET /metadefs/namespaces/", "GET /metadefs/resourcetypes/"} {
		t.Run(route, func(t *testing.T) {
			w := newWorld(t)
			id := w.active(daemon.Image{})
			method, path, _ := strings.Cut(strings.Replace(route, "ID", id, 1), " ")
			a := w.Ask(method, "/api/glance"+path, "{", "X-Auth-Token", "")
			expect(t, a, 401, "")
			if a.Body != `"not logged in"` || a.Header.Get("Www-Authenticate") == "" {
				t.Errorf("401 says %s", a.Body)
			}
			if route != "POST /images/" {
				a = w.Ask(method, "/api/glance"+path, "{")
				expect(t, a, 400, "")
				if a.Body != `"request must be AJAX"` {
					t.Errorf("without X-Requested-With: %s", a.Body)
				}
				expect(t, w.Ask(method, "/api/glance"+path, "", "X-Requested-With", "fetch"), 400, "request must be AJAX")
			}
			expect(t, w.ajax(method, "/api/glance"+path, "{"), 400, "malformed JSON request: ")
			expect(t, w.ajax(method, "/api/glance"+path, `[1]`), 400, "malformed JSON request: ")
			expect(t, w.ajax(method, "/api/glance"+path, `{"updated":{},"name":"a","name":"b"}`), 400, "more than once")
			expect(t, w.ajax(method, "/api/glance"+path, "{\"name\":\"\xff\"}"), 400, "UTF-8")
			expect(t, w.ajax(method, "/api/glance"+path, `{"name":"`+strings.Repeat("n", 114688)+`"}`), 413, "exceeds")
			expect(t, w.Ask(method, "/api/glance"+path, "", "X-Auth-Token", "", "Authorization", "Bearer alice"), 400, "") // known, and then refused
			if method == "PUT" || method == "PATCH" || method == "POST" {
				for _, nothing := range []string{"", " ", "{}", "[]", "null", "0", `""`, "false"} {
					expect(t, w.ajax(method, "/api/glance"+path, nothing), 400, "request requires JSON body")
				}
			}
			if i, _, ok := w.daemon.Peek(id); !ok || i.State != daemon.ImageActive || len(w.daemon.Living()) != 1 {
				t.Errorf("a request that was refused did something: %+v", i)
			}
		})
	}
}

func TestUnknownPaths(t *testing.T) {
	w := newWorld(t)
	id := w.active(daemon.Image{})
	for _, path := range []string{"", "/", "/image/", "/images//", "/images/" + id + "//", "/images/" + id + "/meta/", "/images/" + id + "/properties/x/", "/metadefs/",
		"/metadefs/objects/", "/version/x", "/images/" + id + "/actions/deactivate", "/images/" + id + "/actions/reactivate", "/images/*/x"} {
		for _, method := range []string{"GET", "POST", "TRACE"} {
			expect(t, w.ajax(method, "/api/glance"+path, ""), 404, "")
		}
	}
	expect(t, w.ajax("GET", "/api/glance/images/a%2Fb%2Fc/", ""), 404, "no image")
}

func TestWrongMethods(t *testing.T) {
	w := newWorld(t)
	id := w.active(daemon.Image{})
	for path, allow := range map[string]string{
		"/version/": "GET, HEAD", "/images/": "GET, HEAD, POST, PUT", "/images/" + id + "/": "DELETE, GET, HEAD, PATCH",
		"/images/" + id + "/properties/": "GET, HEAD, PATCH", "/metadefs/namespaces/": "GET, HEAD", "/metadefs/resourcetypes/": "GET, HEAD",
	} {
		for _, method := range []string{"DELETE", "PATCH", "POST", "PUT", "OPTIONS", "TRACE", "get"} {
			if strings.Contains(allow, method) {
				continue
			}
			a := w.ajax(method, "/api/glance"+path, "")
			if a.Status != 405 || a.Body != "" || a.Header.Get("Allow") != allow {
				t.Errorf("%s %s: %d %q, Allow %q", method, path, a.Status, a.Body, a.Header.Get("Allow"))
			}
		}
	}
}

// TestCodes has each code of the daemon come out of a route, as the dashboard's server would pass on the image service's.
func TestCodes(t *testing.T) {
	want := map[daemon.Code]int{daemon.Invalid: 400, daemon.Unauthorized: 401, daemon.Forbidden: 403, daemon.NotFound: 404, daemon.Gone: 404, daemon.Conflict: 409,
		daemon.Busy: 409, daemon.OverQuota: 413, daemon.Exhausted: 413, daemon.Unsupported: 501, daemon.Unavailable: 503, daemon.Internal: 500, "new": 500}
	for _, route := range []struct{ method, path, body, verb string }{
		{"GET", "/images/", "", "FindImages"}, {"PUT", "/images/", `{"name":"n"}`, "AddImage"}, {"POST", "/images/", `{"name":"n"}`, "AddImage"},
		{"GET", "/images/ID/", "", "Image"}, {"PATCH", "/images/ID/", `{"name":"n"}`, "SetImage"}, {"DELETE", "/images/ID/", "", "RequestImageDelete"},
		{"GET", "/images/ID/properties/", "", "Image"}, {"PATCH", "/images/ID/properties/", `{"updated":{}}`, "SetImage"},
		{"GET", "/metadefs/namespaces/", "", "Metadefs"}, {"GET", "/metadefs/resourcetypes/", "", "Metadefs"},
	} {
		w := newWorld(t)
		id := w.active(daemon.Image{})
		for code, status := range want {
			w.daemon.Fail(route.verb, &daemon.Error{Code: code, Message: "the reason", Err: errors.New("secret")})
			a := w.ajax(route.method, "/api/glance"+strings.Replace(route.path, "ID", id, 1), route.body)
			message := "the reason"
			switch code {
			case daemon.Unauthorized:
				message = "not logged in"
			case daemon.Internal:
				message = "internal error"
			}
			expect(t, a, status, message)
			if strings.Contains(a.Body, "secret") {
				t.Errorf("%s tells what is for the log: %s", code, a.Body)
			}
			if after := a.Header.Get("Retry-After"); (after != "") != (code == daemon.Busy || code == daemon.Unavailable) {
				t.Errorf("%s: Retry-After %q", code, after)
			}
		}
		w.daemon.Fail(route.verb, errors.New("secret"))
		expect(t, w.ajax(route.method, "/api/glance"+strings.Replace(route.path, "ID", id, 1), route.body), 500, "internal error")
	}
}

// TestWhoseImage has others ask for an image: what they may not know is not there, what they may see they may not change.
func TestWhoseImage(t *testing.T) {
	w := newWorld(t)
	private, public := w.active(daemon.Image{Name: "a"}), w.active(daemon.Image{Name: "b", Visibility: daemon.Public})
	for _, row := range []struct {
		method, path, body string
		hidden, seen       int
	}{
		{"GET", "/images/ID/", "", 404, 200},
		{"GET", "/images/ID/properties/", "", 404, 200},
		{"PATCH", "/images/ID/", `{"name":"x"}`, 404, 403},
		{"PATCH", "/images/ID/properties/", `{"updated":{"a":"b"}}`, 404, 403},
		{"DELETE", "/images/ID/", "", 404, 403},
	} {
		for id, status := range map[string]int{private: row.hidden, public: row.seen, unknownID: 404, "garbage": 404, strings.ToUpper(public): 404, "%00": 404} {
			expect(t, w.ajax(row.method, "/api/glance"+strings.Replace(row.path, "ID", id, 1), row.body, "X-Auth-Token", "bob"), status, "")
		}
	}
}
