package nova_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/nova"
)

func TestSpeaksAndOpen(t *testing.T) {
	f := nova.New(newFake(t))
	for path, want := range map[string][2]bool{ // spoken for, open
		"/": {true, true}, "/v2": {true, true}, "/v2/": {true, true}, "/v2.1": {true, true}, "/v2.1/": {true, true},
		"/compute/v2.1": {true, true}, "/compute/v2.1/": {true, true},
		"/v2.1/images": {true, false}, "/v2/p": {true, false}, "/v2.1/p/": {true, false}, "/v2//": {true, false}, "/compute/v2.1/images": {true, false},
		"": {}, "//": {}, "/v1": {}, "/v1.1": {}, "/v1.1/images": {}, "/v2.0": {}, "/v2.10/images": {}, "/v2.1x": {}, "/v20": {}, "/v3": {},
		"/compute": {}, "/compute/": {}, "/compute/v2.0/images": {}, "/image/v2/images": {}, "/V2/images": {},
	} {
		if got := [2]bool{f.Speaks(path), f.Open("GET", path)}; got != want {
			t.Errorf("%s: %v", path, got)
		}
		if f.Open("POST", path) || f.Open("HEAD", path) != want[1] {
			t.Errorf("%s is open for what is no reading", path)
		}
	}
}

func TestVersionDocuments(t *testing.T) {
	h := start(t)
	const v20 = `"id":"v2.0","status":"SUPPORTED","version":"","min_version":"","updated":"2011-01-21T11:33:21Z","links":[{"rel":"self","href":"` + base + `/v2/"}`
	v21 := func(prefix string) string {
		return `"id":"v2.1","status":"CURRENT","version":"2.38","min_version":"2.1","updated":"2013-07-23T11:33:21Z","links":[{"rel":"self","href":"` + base + prefix + `/"}`
	}
	one := func(members, minor string) string {
		return `{"version":{` + members + `,{"rel":"describedby","type":"text/html","href":"http://docs.openstack.org/"}],` +
			`"media-types":[{"base":"application/json","type":"application/vnd.openstack.compute+json;version=` + minor + `"}]}}`
	}
	for path, want := range map[string]string{
		"/":                    `{"versions":[{` + v20 + `]},{` + v21("/v2.1") + `]}]}`,
		"/v2.1":                one(v21("/v2.1"), "2.1"),
		"/v2.1/":               one(v21("/v2.1"), "2.1"),
		"/v2":                  one(v20, "2"),
		"/v2/":                 one(v20, "2"),
		"/compute/v2.1/":       one(v21("/compute/v2.1"), "2.1"),
		"/v2.1/" + project:     one(v21("/v2.1"), "2.1"),
		"/v2/" + project + "/": one(v20, "2"),
	} {
		token := ""
		if strings.Contains(path, project) {
			token = "alice"
		}
		a := h.as(t, token, "GET", path, "", "X-OpenStack-Nova-API-Version: 2.99")
		if a.status != 200 || a.body != want || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s\nwant %s", path, a.status, a.body, want)
		}
	}
	if a := h.as(t, "alice", "POST", "/", ""); a.status != 404 {
		t.Errorf("POST /: %d", a.status)
	}
}

// A token is asked for before anything is looked at, but for the version documents.
func TestNoToken(t *testing.T) {
	h := start(t)
	for _, target := range []string{"/v2.1/images", "/v2/images", "/v2.1/nowhere/at/all", "/v2/" + project, "/compute/v2.1/images"} {
		a := h.as(t, "", "GET", target, "")
		if name, _, _ := a.fault(t); a.status != 401 || name != "unauthorized" {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
		if got := a.header.Get("WWW-Authenticate"); got != `Keystone uri="`+base+`/identity"` {
			t.Errorf("%s: WWW-Authenticate %q", target, got)
		}
	}
}

// The project of an address is the token's. Order: the route, then the body's JSON, then the project, then the body.
func TestProject(t *testing.T) {
	h := start(t)
	for _, row := range []struct {
		method, target, body string
		want                 int
		says                 string
	}{
		{"GET", "/v2.1/other/images", "", 400, `\"other\"`},
		{"GET", "/v2/other/images/detail", "", 400, project},
		{"GET", "/v2.1/other", "", 400, "project"},
		{"DELETE", "/v2.1/other/images/" + unknown, "", 400, "project"},
		{"GET", "/v2.1/other/nothing", "", 404, ""},
		{"POST", "/v2.1/other/images/" + active + "/metadata", "{", 400, "well-formed"},
		{"POST", "/v2.1/other/images/" + active + "/metadata", "{}", 400, "project"},
		{"POST", "/v2.1/" + project + "/images/" + active + "/metadata", "{}", 400, "metadata is missing"},
	} {
		a := h.call(t, row.method, row.target, row.body)
		if a.status != row.want || !strings.Contains(a.body, row.says) {
			t.Errorf("%s %s: %d %s, want %d and %s", row.method, row.target, a.status, a.body, row.want, row.says)
		}
	}
}

func TestMicroversions(t *testing.T) {
	const newer, older = "OpenStack-API-Version: ", "X-OpenStack-Nova-API-Version: "
	images, items := "/images/"+active, "/images/"+active+"/metadata"
	for _, row := range []struct {
		name, path string
		headers    []string
		want       int
		told       string
	}{
		{"none", images, nil, 200, "2.1"},
		{"oldest", images, []string{older + "2.1"}, 200, "2.1"},
		{"last with images", images, []string{older + "2.35"}, 200, "2.35"},
		{"first without", images, []string{older + "2.36"}, 404, "2.36"},
		{"items then", items, []string{older + "2.36"}, 200, "2.36"},
		{"last with items", items, []string{older + "2.38"}, 200, "2.38"},
		{"too new", items, []string{older + "2.39"}, 406, ""},
		{"too old", items, []string{older + "2.0"}, 406, ""},
		{"other major", items, []string{older + "3.1"}, 406, ""},
		{"enormous", items, []string{older + "2.99999999999999999999"}, 406, ""},
		{"garbage", items, []string{older + "2.x"}, 400, ""},
		{"leading zero", items, []string{older + "2.01"}, 400, ""},
		{"one number", items, []string{older + "2"}, 400, ""},
		{"line", items, []string{older + "2.1 2.2"}, 400, ""},
		{"latest, images", images, []string{older + "latest"}, 404, "2.38"},
		{"latest, items", items, []string{newer + "compute latest"}, 200, "2.38"},
		{"newer header", images, []string{newer + "compute 2.35"}, 200, "2.35"},
		{"newer header first", images, []string{newer + "compute 2.5", older + "2.36"}, 200, "2.5"},
		{"list of services", images, []string{newer + "identity 3.1, compute 2.7 , image 2.99"}, 200, "2.7"},
		{"two headers", images, []string{newer + "compute 2.7", newer + "identity 9.9"}, 200, "2.7"},
		{"another service alone", images, []string{newer + "identity 9.9", older + "2.3"}, 200, "2.3"},
		{"no version", images, []string{newer + "compute"}, 400, ""},
		{"unknown path first", "/nowhere/at/all", []string{older + "2.x"}, 404, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := start(t)
			a := h.call(t, "GET", "/v2.1"+row.path, "", row.headers...)
			if a.status != row.want {
				t.Fatalf("%d %s, want %d", a.status, a.body, row.want)
			}
			if name := ""; row.want >= 400 {
				if name, _, _ = a.fault(t); name != faultNames[row.want] {
					t.Errorf("fault %q", name)
				}
			}
			if row.want == 406 && !(strings.Contains(a.body, "2.1") && strings.Contains(a.body, "2.38")) {
				t.Errorf("%s names no range", a.body)
			}
			service := row.told
			if service != "" {
				service = "compute " + service
			}
			if a.header.Get("X-OpenStack-Nova-API-Version") != row.told || a.header.Get("OpenStack-API-Version") != service {
				t.Errorf("headers %v, want %s", a.header, row.told)
			}
			if vary := a.header.Get("Vary"); !strings.Contains(vary, "OpenStack-API-Version") || !strings.Contains(vary, "X-OpenStack-Nova-API-Version") {
				t.Errorf("Vary %q", vary)
			}
			old := h.call(t, "GET", "/v2"+images, "", row.headers...)
			if old.status != 200 || old.header.Get("Vary")+old.header.Get("OpenStack-API-Version")+old.header.Get("X-OpenStack-Nova-API-Version") != "" {
				t.Errorf("version 2 looks at it: %d %v", old.status, old.header)
			}
		})
	}
}

// Every reply has the request's id in Nova's form, and the same in both headers.
func TestRequestID(t *testing.T) {
	h := start(t)
	form := regexp.MustCompile(`\Areq-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z`)
	var all []http.Header
	for _, target := range []string{"/", "/v2.1", "/v2.1/images", "/v2/images", "/v2/nowhere", "/v2.1/images/" + unknown} {
		all = append(all, h.call(t, "GET", target, "").header)
	}
	all = append(all, h.call(t, "DELETE", "/v2.1/images/"+active, "").header)
	for i, header := range all {
		if id := header.Get("X-Compute-Request-Id"); !form.MatchString(id) || id != header.Get("X-Openstack-Request-Id") {
			t.Errorf("%d: %v", i, header)
		}
	}
}

// Metrics know routes by names that no caller chooses.
func TestRouteNames(t *testing.T) {
	h := start(t)
	for target, want := range map[string]string{
		"/": "GET /", "/v2.1": "GET /v2.1", "/v2.1/" + project: "GET /v2.1", "/compute/v2.1/images": "GET /v2.1/images",
		"/v2/" + project + "/images/" + active: "GET /v2/images/{id}", "/v2.1/images/x/metadata/y": "GET /v2.1/images/{id}/metadata/{key}",
		"/v2.1/nowhere/at/all": "",
	} {
		if a := h.call(t, "GET", target, ""); a.route != want {
			t.Errorf("%s is %q", target, a.route)
		}
	}
}

// What is internal is not told, and what a caller sent is encoded.
func TestFaultText(t *testing.T) {
	h := start(t)
	a := h.call(t, "GET", "/v2.1/%22%3C%0A/images", "")
	var got map[string]map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	want := `malformed request URL: its project "\"<\n" is not the token's project "` + project + `"`
	if diff := cmp.Diff(want, got["badRequest"]["message"]); diff != "" {
		t.Error(diff)
	}
}
