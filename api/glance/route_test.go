package glance_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/api/glance"
	"github.com/capsuled/capsuled/daemon"
)

func TestSpeaks(t *testing.T) {
	f := glance.New(nil)
	for path, want := range map[string]bool{"/image": true, "/image/": true, "/image/v2/images": true, "/images": false, "/v2/images": false, "/x/image/": false} {
		if f.Speaks(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
	for _, closed := range [][2]string{{"GET", "/image/v2/images"}, {"POST", "/image/"}, {"GET", "/image/v2/schemas/image"}, {"GET", "/image/versions/x"}} {
		if f.Open(closed[0], closed[1]) {
			t.Errorf("%s is open to everybody", closed)
		}
	}
}

func TestVersions(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"", "/", "/versions", "/versions/", "/v2", "/v2/"} {
		a := w.ask("GET", path, "", "X-Auth-Token", "")
		expect(t, a, 200, `{"id":"v2.9","status":"CURRENT","links":[{"rel":"self","href":"http://host.example/image/v2/"}]}`)
	}
}

// routes are all of them, with a request that each answers.
var routes = []struct{ method, path, body, verb string }{
	{"GET", "/v2/images", "", "FindImages"}, {"POST", "/v2/images", `{"name":"n"}`, "AddImage"}, {"GET", "/v2/images/ID", "", "Image"},
	{"PATCH", "/v2/images/ID", `[]`, "SetImage"}, {"DELETE", "/v2/images/ID", "", "RequestImageDelete"}, {"GET", "/v2/images/ID/file", "", "OpenImage"},
	{"PUT", "/v2/images/NEW/file", "x", "AppendImage"}, {"PUT", "/v2/images/NEW/file", "x", "FinishImage"}, {"PUT", "/v2/images/NEW/file", "x", "WaitOperation"},
	{"PUT", "/v2/images/ID/tags/t", "", "SetImage"}, {"DELETE", "/v2/images/ID/tags/old", "", "SetImage"}, {"GET", "/v2/schemas/image", "", ""},
	{"GET", "/v2/schemas/images", "", ""}, {"GET", "/v2/schemas/metadefs/namespace", "", ""}, {"GET", "/v2/metadefs/namespaces", "", "Metadefs"},
	{"POST", "/v2/metadefs/namespaces", `{"namespace":"N"}`, "PutMetadef"}, {"GET", "/v2/metadefs/namespaces/OLD", "", "Metadefs"},
	{"PUT", "/v2/metadefs/namespaces/OLD", `{"namespace":"OLD"}`, "PutMetadef"}, {"DELETE", "/v2/metadefs/namespaces/OLD", "", "DeleteMetadef"},
	{"GET", "/v2/metadefs/resource_types", "", "Metadefs"},
}

// prepared has what the routes name.
func prepared(t *testing.T, path string) (*world, string) {
	w := newWorld(t)
	if err := w.daemon.PutMetadef(t.Context(), admin, daemon.Metadef{Namespace: "OLD", Visibility: daemon.Public}); err != nil {
		t.Fatal(err)
	}
	id := w.active(daemon.Image{Owner: "admin", Metadata: map[string]string{"tags": `["old"]`}})
	path = strings.Replace(path, "NEW", w.active(daemon.Image{Owner: "admin", State: daemon.ImagePending}), 1)
	return w, strings.Replace(path, "ID", id, 1)
}

func TestRoutes(t *testing.T) {
	for _, r := range routes {
		w, path := prepared(t, r.path)
		a := w.ask(r.method, path, r.body, "X-Auth-Token", "admin")
		expect(t, a, a.Status, "")
		if a.Status >= 300 || strings.Contains(a.Route, path) && strings.Contains(r.path, "ID") || !strings.HasPrefix(a.Route, r.method+" /image/v2/") {
			t.Errorf("%s %s: %d %s, as %q", r.method, r.path, a.Status, a.Body, a.Route)
		}
		expect(t, w.ask(r.method, path, r.body, "X-Auth-Token", ""), 401, "no identity")
	}
}

func TestCodes(t *testing.T) {
	want := map[daemon.Code]int{daemon.Invalid: 400, daemon.Unauthorized: 401, daemon.Forbidden: 403, daemon.NotFound: 404, daemon.Gone: 404, daemon.Conflict: 409,
		daemon.Busy: 409, daemon.OverQuota: 413, daemon.Exhausted: 413, daemon.Unsupported: 501, daemon.Unavailable: 503, daemon.Internal: 500, "new": 500}
	for _, r := range routes {
		if r.verb == "" {
			continue
		}
		for code, status := range want {
			w, path := prepared(t, r.path)
			w.daemon.Fail(r.verb, &daemon.Error{Code: code, Message: "the reason", Err: errors.New("secret")})
			a := w.ask(r.method, path, r.body, "X-Auth-Token", "admin")
			message := "the reason"
			if code == daemon.Internal {
				message = "internal error"
			}
			expect(t, a, status, message)
			if after := a.Header.Get("Retry-After"); strings.Contains(a.Body, "secret") || (after != "") != (code == daemon.Busy || code == daemon.Unavailable) {
				t.Errorf("%s: Retry-After %q, %s", code, after, a.Body)
			}
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	id := w.active(daemon.Image{})
	for _, path := range []string{"/v1", "/v2/", "/v2/imagesx", "/v2//images", "/v2/images//file", "/v2/images/" + id + "//", "/v2/images/" + id + "/members", "/v2/images/" + id + "/actions/deactivate",
		"/v2/images/" + id + "/tags", "/v2/images/" + id + "/tags/a/b", "/v2/schemas/x", "/v2/schemas/metadefs/x", "/v2/metadefs", "/v2/metadefs/namespaces//", "/v2/metadefs/namespaces/x/objects",
		"/v2/images/garbage", "/v2/images/" + strings.ToUpper(unknownID) + "/file", "/v2/images/*"} {
		if path != "/v2/" {
			expect(t, w.ask("GET", path, ""), 404, "")
		}
	}
	for path, allow := range map[string]string{"/v2": "GET, HEAD", "/v2/images": "GET, POST", "/v2/images/" + id: "DELETE, GET, PATCH", "/v2/images/" + id + "/file": "GET, PUT",
		"/v2/images/" + id + "/tags/t": "DELETE, PUT", "/v2/schemas/image": "GET", "/v2/metadefs/namespaces": "GET, POST", "/v2/metadefs/namespaces/n": "DELETE, GET, PUT"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} {
			if !slices.Contains(strings.Split(allow, ", "), method) {
				a := w.ask(method, path, "")
				expect(t, a, 405, "no such method")
				if a.Header.Get("Allow") != allow {
					t.Errorf("%s: Allow %q", path, a.Header.Get("Allow"))
				}
			}
		}
	}
}

// TestWhoseImage has bob ask: what he may not know is not there, what he may see he may not change.
func TestWhoseImage(t *testing.T) {
	for _, row := range []struct {
		method, path, body string
		hidden, seen       int
	}{
		{"GET", "", "", 404, 200}, {"PATCH", "", `[{"op":"add","path":"/a","value":"b"}]`, 404, 403}, {"DELETE", "", "", 404, 403}, {"GET", "/file", "", 404, 200},
		{"PUT", "/file", "x", 404, 403}, {"PUT", "/tags/t", "", 404, 403}, {"DELETE", "/tags/old", "", 404, 403},
	} {
		w := newWorld(t)
		tags := map[string]string{"tags": `["old"]`}
		private, public := w.active(daemon.Image{Metadata: tags}), w.active(daemon.Image{Visibility: daemon.Public, Metadata: tags})
		for id, status := range map[string]int{private: row.hidden, public: row.seen, unknownID: 404} {
			expect(t, w.ask(row.method, "/v2/images/"+id+row.path, row.body, "X-Auth-Token", "bob"), status, "")
		}
	}
}

func TestSchemas(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"image", "images", "metadefs/namespace", "metadefs/namespaces", "metadefs/resource_type", "metadefs/resource_types"} {
		got := dialecttest.Decode[struct {
			Name       string
			Properties map[string]any
		}](t, w.ask("GET", "/v2/schemas/"+name, ""))
		if got.Name == "" || len(got.Properties) == 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Every attribute that is shown is one of the schema, or else it must be a string.
	schema := dialecttest.Decode[struct{ Properties map[string]any }](t, w.ask("GET", "/v2/schemas/image", ""))
	id := w.active(daemon.Image{Description: "d", Digest: "sha256:ab", Metadata: map[string]string{"a": "b"}})
	for name, value := range dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/images/"+id, "")) {
		if _, ok := schema.Properties[name]; !ok {
			if _, text := value.(string); !text {
				t.Errorf("%s is %v, and not in the schema", name, value)
			}
		}
	}
}
