package nova_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// both gives the paths of one call in both variants, with and without the project.
var both = []struct {
	name, prefix string
	second       bool // the row's second status counts
}{
	{"v2.1", "/v2.1", false},
	{"v2.1 with project", "/v2.1/" + project, false},
	{"devstack", "/compute/v2.1", false},
	{"v2", "/v2", true},
	{"v2 with project", "/v2/" + project, true},
}

var faultNames = map[int]string{400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
	409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 501: "notImplemented", 503: "serviceUnavailable",
	500: "computeFault", 406: "computeFault"}

const okItems, okItem = `{"metadata":{"a":"b"}}`, `{"meta":{"a":"b"}}`

// Every route with every status that it has: in version 2.1, and where that differs in version 2.
func TestRoutes(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, row := range []struct {
		name, method, path, body string
		want, second             int
		headers                  []string
	}{
		{"version", "GET", "", "", 200, 0, nil},
		{"version, slash", "GET", "/", "", 200, 0, nil},
		{"list", "GET", "/images", "", 200, 0, nil},
		{"list, head", "HEAD", "/images", "", 200, 0, nil},
		{"list, slash", "GET", "/images/", "", 200, 0, nil},
		{"list, bad limit", "GET", "/images?limit=x", "", 400, 0, nil},
		{"detail", "GET", "/images/detail", "", 200, 0, nil},
		{"detail, slash", "GET", "/images/detail/", "", 200, 0, nil},
		{"detail, suffix", "GET", "/images/detail.json", "", 404, 200, nil},
		{"detail, bad marker", "GET", "/images/detail?marker=" + unknown, "", 400, 0, nil},
		{"detail, bad escape", "GET", "/images/detail?name=%zz", "", 400, 0, nil},
		{"detail, no UTF-8", "GET", "/images/detail?name=%ff", "", 400, 0, nil},
		{"create", "POST", "/images", "{}", 404, 405, nil},
		{"delete of the list", "DELETE", "/images", "", 404, 405, nil},
		{"delete of a blank id", "DELETE", "/images/", "", 404, 404, nil},
		{"two slashes", "GET", "/images//", "", 404, 0, nil},
		{"slashes before", "GET", "//images", "", 404, 0, nil},

		{"show", "GET", "/images/" + active, "", 200, 0, nil},
		{"show, slash", "GET", "/images/" + active + "/", "", 200, 0, nil},
		{"show, suffix", "GET", "/images/" + active + ".json", "", 404, 200, nil},
		{"show queued", "GET", "/images/" + queued, "", 200, 0, nil},
		{"show leaving", "GET", "/images/" + leaving, "", 200, 0, nil},
		{"show purged", "GET", "/images/" + tombstone, "", 404, 0, nil},
		{"show failed", "GET", "/images/" + failed, "", 200, 0, nil},
		{"show public", "GET", "/images/" + public, "", 200, 0, nil},
		{"show another's", "GET", "/images/" + hidden, "", 404, 0, nil},
		{"show unknown", "GET", "/images/" + unknown, "", 404, 0, nil},
		{"show no hex", "GET", "/images/999999999z", "", 404, 0, nil},
		{"show negative", "GET", "/images/-1", "", 404, 0, nil},
		{"show escapes", "GET", "/images/%2e%2e%2f" + active, "", 404, 0, nil},
		{"show with a slash in its id", "GET", "/images/" + active + "%2Fmetadata", "", 404, 0, nil},
		{"change", "PUT", "/images/" + active, "{}", 404, 405, nil},

		{"delete", "DELETE", "/images/" + active, "", 204, 0, nil},
		{"delete failed", "DELETE", "/images/" + failed, "", 204, 0, nil},
		{"delete queued", "DELETE", "/images/" + queued, "", 409, 0, nil},
		{"delete leaving", "DELETE", "/images/" + leaving, "", 403, 0, nil},
		{"delete purged", "DELETE", "/images/" + tombstone, "", 403, 0, nil},
		{"delete protected", "DELETE", "/images/" + guarded, "", 403, 0, nil},
		{"delete public", "DELETE", "/images/" + public, "", 403, 0, nil},
		{"delete another's", "DELETE", "/images/" + hidden, "", 404, 0, nil},
		{"delete unknown", "DELETE", "/images/" + unknown, "", 404, 0, nil},
		{"delete too long an id", "DELETE", "/images/" + active + "0", "", 404, 0, nil},
		{"delete no id", "DELETE", "/images/11a22b9-12a9-5555-cc11-00ab112223fa", "", 404, 0, nil},

		{"items", "GET", "/images/" + active + "/metadata", "", 200, 0, nil},
		{"items, suffix", "GET", "/images/" + active + "/metadata.json", "", 404, 200, nil},
		{"items of leaving", "GET", "/images/" + leaving + "/metadata", "", 200, 0, nil},
		{"items of purged", "GET", "/images/" + tombstone + "/metadata", "", 404, 0, nil},
		{"items of another's", "GET", "/images/" + hidden + "/metadata", "", 404, 0, nil},
		{"items of unknown", "GET", "/images/" + unknown + "/metadata", "", 404, 0, nil},
		{"items away", "DELETE", "/images/" + active + "/metadata", "", 404, 405, nil},
		{"synnefo's name", "GET", "/images/" + active + "/meta", "", 404, 0, nil},
		{"detail is no image", "GET", "/images/detail/metadata", "", 404, 0, nil},

		{"merge", "POST", "/images/" + active + "/metadata", okItems, 200, 0, nil},
		{"merge, slash", "POST", "/images/" + active + "/metadata/", okItems, 200, 0, nil},
		{"merge nothing", "POST", "/images/" + active + "/metadata", `{"metadata":{}}`, 200, 0, nil},
		{"merge no body", "POST", "/images/" + active + "/metadata", "", 400, 0, nil},
		{"merge no JSON", "POST", "/images/" + active + "/metadata", "x", 400, 0, nil},
		{"merge null", "POST", "/images/" + active + "/metadata", `{"metadata":null}`, 400, 0, nil},
		{"merge list", "POST", "/images/" + active + "/metadata", `{"metadata":[]}`, 400, 0, nil},
		{"merge deep", "POST", "/images/" + active + "/metadata", `{"metadata":` + deep + `}`, 400, 0, nil},
		{"merge nothing known", "POST", "/images/" + active + "/metadata", okItem, 400, 0, nil},
		{"merge more", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":"b"},"x":1}`, 400, 200, nil},
		{"merge twice", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":"b","a":"c"}}`, 400, 0, nil},
		{"merge number", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":1}}`, 400, 0, nil},
		{"merge null value", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":null}}`, 400, 0, nil},
		{"merge object", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":{}}}`, 400, 0, nil},
		{"merge empty key", "POST", "/images/" + active + "/metadata", `{"metadata":{"":"b"}}`, 400, 0, nil},
		{"merge unicode key", "POST", "/images/" + active + "/metadata", `{"metadata":{"☐":"b"}}`, 400, 0, nil},
		{"merge slash key", "POST", "/images/" + active + "/metadata", `{"metadata":{"a/b":"b"}}`, 400, 0, nil},
		{"merge all of the class", "POST", "/images/" + active + "/metadata", `{"metadata":{"aZ09-_:. ":""}}`, 200, 0, nil},
		{"merge 255 key", "POST", "/images/" + active + "/metadata", `{"metadata":{"` + strings.Repeat("k", 255) + `":""}}`, 200, 0, nil},
		{"merge 256 key", "POST", "/images/" + active + "/metadata", `{"metadata":{"` + strings.Repeat("k", 256) + `":""}}`, 400, 0, nil},
		{"merge 255 value", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":"` + strings.Repeat("😀", 255) + `"}}`, 200, 0, nil},
		{"merge 256 value", "POST", "/images/" + active + "/metadata", `{"metadata":{"a":"` + strings.Repeat("v", 256) + `"}}`, 400, 0, nil},
		{"merge 129th", "POST", "/images/" + full + "/metadata", okItems, 403, 413, nil},
		{"merge 128", "POST", "/images/" + full + "/metadata", `{"metadata":{"key000":"b"}}`, 200, 0, nil},
		{"merge too long", "POST", "/images/" + active + "/metadata", strings.Repeat(" ", 114689), 413, 0, nil},
		{"merge XML", "POST", "/images/" + active + "/metadata", "<metadata/>", 415, 0, []string{"Content-Type: application/xml"}},
		{"merge two types", "POST", "/images/" + active + "/metadata", okItems, 415, 0, []string{"Content-Type: application/json", "Content-Type: text/xml"}},
		{"merge broken type", "POST", "/images/" + active + "/metadata", okItems, 415, 0, []string{"Content-Type: ;"}},
		{"merge compute", "POST", "/images/" + active + "/metadata", okItems, 200, 0, []string{"Content-Type: application/vnd.openstack.compute+json; charset=utf-8"}},
		{"merge plain", "POST", "/images/" + active + "/metadata", okItems, 200, 0, []string{"Content-Type: text/plain"}},
		{"merge queued", "POST", "/images/" + queued + "/metadata", okItems, 409, 0, nil},
		{"merge leaving", "POST", "/images/" + leaving + "/metadata", okItems, 403, 409, nil},
		{"merge purged", "POST", "/images/" + tombstone + "/metadata", okItems, 404, 0, nil},
		{"merge failed", "POST", "/images/" + failed + "/metadata", okItems, 403, 409, nil},
		{"merge public", "POST", "/images/" + public + "/metadata", okItems, 403, 0, nil},
		{"merge another's", "POST", "/images/" + hidden + "/metadata", okItems, 404, 0, nil},
		{"merge unknown", "POST", "/images/" + unknown + "/metadata", okItems, 404, 0, nil},
		{"merge no id", "POST", "/images/x/metadata", okItems, 404, 0, nil},
		{"merge protected", "POST", "/images/" + guarded + "/metadata", okItems, 200, 0, nil},

		{"replace", "PUT", "/images/" + active + "/metadata", okItems, 200, 0, nil},
		{"replace by nothing", "PUT", "/images/" + active + "/metadata", `{"metadata":{}}`, 200, 0, nil},
		{"replace no body", "PUT", "/images/" + active + "/metadata", "", 400, 0, nil},
		{"replace more", "PUT", "/images/" + active + "/metadata", `{"metadata":{"a":"b"},"x":1}`, 400, 200, nil},
		{"replace XML", "PUT", "/images/" + active + "/metadata", "", 415, 0, []string{"Content-Type: application/xml"}},
		{"replace by 129", "PUT", "/images/" + active + "/metadata", manyItems(129), 403, 413, nil},
		{"replace by 128", "PUT", "/images/" + full + "/metadata", manyItems(128), 200, 0, nil},
		{"replace leaving", "PUT", "/images/" + leaving + "/metadata", okItems, 403, 409, nil},
		{"replace purged", "PUT", "/images/" + tombstone + "/metadata", okItems, 404, 0, nil},
		{"replace queued", "PUT", "/images/" + queued + "/metadata", okItems, 409, 0, nil},
		{"replace public", "PUT", "/images/" + public + "/metadata", okItems, 403, 0, nil},
		{"replace unknown", "PUT", "/images/" + unknown + "/metadata", okItems, 404, 0, nil},

		{"item", "GET", "/images/" + active + "/metadata/kernel_id", "", 200, 0, nil},
		{"item, slash", "GET", "/images/" + active + "/metadata/kernel_id/", "", 200, 0, nil},
		{"item, escaped", "GET", "/images/" + active + "/metadata/kernel%5Fid", "", 200, 0, nil},
		{"item, suffix belongs to the key", "GET", "/images/" + active + "/metadata/kernel_id.json", "", 404, 0, nil},
		{"item, missing", "GET", "/images/" + active + "/metadata/none", "", 404, 0, nil},
		{"item of purged", "GET", "/images/" + tombstone + "/metadata/a", "", 404, 0, nil},
		{"item of unknown", "GET", "/images/" + unknown + "/metadata/a", "", 404, 0, nil},
		{"item, posted", "POST", "/images/" + active + "/metadata/a", okItem, 404, 405, nil},
		{"item and more", "GET", "/images/" + active + "/metadata/a/b", "", 404, 0, nil},

		{"put item", "PUT", "/images/" + active + "/metadata/a", okItem, 200, 0, nil},
		{"put item, other key", "PUT", "/images/" + active + "/metadata/b", okItem, 400, 0, nil},
		{"put item, two", "PUT", "/images/" + active + "/metadata/a", `{"meta":{"a":"b","c":"d"}}`, 400, 0, nil},
		{"put item, none", "PUT", "/images/" + active + "/metadata/a", `{"meta":{}}`, 400, 0, nil},
		{"put item, no body", "PUT", "/images/" + active + "/metadata/a", "", 400, 0, nil},
		{"put item, metadata", "PUT", "/images/" + active + "/metadata/a", okItems, 400, 0, nil},
		{"put item, unicode", "PUT", "/images/" + active + "/metadata/%E2%98%90", `{"meta":{"☐":"b"}}`, 400, 0, nil},
		{"put item, space", "PUT", "/images/" + active + "/metadata/a%20b", `{"meta":{"a b":"c"}}`, 200, 0, nil},
		{"put item, plus stays", "PUT", "/images/" + active + "/metadata/a+b", `{"meta":{"a b":"c"}}`, 400, 0, nil},
		{"put item, decoded once", "PUT", "/images/" + active + "/metadata/a%2520b", `{"meta":{"a b":"c"}}`, 400, 0, nil},
		{"put item, XML", "PUT", "/images/" + active + "/metadata/a", okItem, 415, 0, []string{"Content-Type: application/xml"}},
		{"put item, 129th", "PUT", "/images/" + full + "/metadata/a", okItem, 403, 413, nil},
		{"put item, leaving", "PUT", "/images/" + leaving + "/metadata/a", okItem, 403, 409, nil},
		{"put item, purged", "PUT", "/images/" + tombstone + "/metadata/a", okItem, 404, 0, nil},
		{"put item, queued", "PUT", "/images/" + queued + "/metadata/a", okItem, 409, 0, nil},
		{"put item, public", "PUT", "/images/" + public + "/metadata/a", okItem, 403, 0, nil},
		{"put item, unknown", "PUT", "/images/" + unknown + "/metadata/a", okItem, 404, 0, nil},

		{"delete item", "DELETE", "/images/" + active + "/metadata/kernel_id", "", 204, 0, nil},
		{"delete item, missing", "DELETE", "/images/" + active + "/metadata/none", "", 404, 0, nil},
		{"delete item, leaving", "DELETE", "/images/" + leaving + "/metadata/a", "", 403, 409, nil},
		{"delete item, purged", "DELETE", "/images/" + tombstone + "/metadata/a", "", 404, 0, nil},
		{"delete item, queued", "DELETE", "/images/" + queued + "/metadata/a", "", 409, 0, nil},
		{"delete item, public", "DELETE", "/images/" + public + "/metadata/a", "", 403, 0, nil},
		{"delete item, unknown", "DELETE", "/images/" + unknown + "/metadata/a", "", 404, 0, nil},

		{"unknown resource", "GET", "/flavors", "", 404, 0, nil},
		{"nothing known", "GET", "/images/" + active + "/x", "", 404, 0, nil},
	} {
		for _, v := range both {
			t.Run(row.name+", "+v.name, func(t *testing.T) {
				want := row.want
				if v.second && row.second != 0 {
					want = row.second
				}
				a := start(t).call(t, row.method, v.prefix+row.path, row.body, row.headers...)
				if a.status != want {
					t.Fatalf("%s %s: %d %s, want %d", row.method, row.path, a.status, a.body, want)
				}
				if want >= 400 {
					if name, _, _ := a.fault(t); name != faultNames[want] {
						t.Errorf("fault %q of %d", name, want)
					}
				} else if want == 200 && a.header.Get("Content-Type") != "application/json" {
					t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
				}
				if (want == 405) != (a.header.Get("Allow") != "") {
					t.Errorf("Allow %q with %d", a.header.Get("Allow"), want)
				}
			})
		}
	}
}

func manyItems(n int) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(`"k%d":"v"`, i))
	}
	return `{"metadata":{` + strings.Join(items, ",") + `}}`
}

// Whatever the daemon says has a status and a name on every route.
func TestDaemonErrors(t *testing.T) {
	for code, want := range map[daemon.Code]int{daemon.Invalid: 400, daemon.Forbidden: 403, daemon.NotFound: 404, daemon.Conflict: 409,
		daemon.Busy: 409, daemon.Exhausted: 503, daemon.Unsupported: 501, daemon.Unavailable: 503, daemon.Internal: 500, "new": 500} {
		for _, call := range [][2]string{{"GET", "/images"}, {"GET", "/images/" + active}, {"DELETE", "/images/" + active},
			{"GET", "/images/" + active + "/metadata"}, {"DELETE", "/images/" + active + "/metadata/a"}} {
			for _, v := range both {
				h := start(t)
				h.fail = no(code, "what it says")
				a := h.call(t, call[0], v.prefix+call[1], "")
				if name, _, _ := a.fault(t); a.status != want || name != faultNames[want] {
					t.Errorf("%s at %s: %d %s, want %d", code, call, a.status, a.body, want)
				}
				if retry := a.header.Get("Retry-After"); (retry != "") != (code == daemon.Busy || code == daemon.Unavailable) {
					t.Errorf("%s: Retry-After %q", code, retry)
				}
			}
		}
	}
}

// A suffix is version 2's alone. In version 2.1 what is no name of a resource is a project, and not the token's.
func TestSuffix(t *testing.T) {
	h := start(t)
	for target, want := range map[string]int{"/v2/images.json": 200, "/v2/" + project + "/images.json": 200, "/v2.1/images.json": 400,
		"/v2.1/" + project + "/images.json": 404, "/v2/images.xml": 400} {
		if a := h.call(t, "GET", target, ""); a.status != want {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
}

// Which methods a path has is said by version 2 alone.
func TestAllow(t *testing.T) {
	h := start(t)
	for path, want := range map[string]string{"": "GET, HEAD", "/images": "GET, HEAD", "/images/detail": "GET, HEAD", "/images/" + active: "DELETE, GET, HEAD",
		"/images/" + active + "/metadata": "GET, POST, PUT, HEAD", "/images/" + active + "/metadata/a": "DELETE, GET, PUT, HEAD"} {
		if a := h.call(t, "PATCH", "/v2"+path, ""); a.status != 405 || a.header.Get("Allow") != want {
			t.Errorf("%s: %d, Allow %q, want %q", path, a.status, a.header.Get("Allow"), want)
		}
		if a := h.call(t, "PATCH", "/v2.1"+path, ""); a.status != 404 || a.header.Get("Allow") != "" {
			t.Errorf("2.1 %s: %d, Allow %q", path, a.status, a.header.Get("Allow"))
		}
	}
}

// Too many items: the word that clients look for, and when to come again, in version 2 alone.
func TestTooManyItems(t *testing.T) {
	h := start(t)
	a := h.call(t, "POST", "/v2/images/"+full+"/metadata", okItems)
	if _, message, retry := a.fault(t); a.header.Get("Retry-After") != "0" || retry != "0" || !strings.Contains(message, "exceeded") {
		t.Errorf("%v %s", a.header, a.body)
	}
	a = h.call(t, "POST", "/v2.1/images/"+full+"/metadata", okItems)
	if _, _, retry := a.fault(t); a.header.Get("Retry-After") != "" || retry != "" {
		t.Errorf("%v %s", a.header, a.body)
	}
	a = h.call(t, "POST", "/v2/images/"+full+"/metadata", strings.Repeat(" ", 200000))
	if _, message, retry := a.fault(t); a.status != 413 || retry != "" || !strings.Contains(message, "exceeded") {
		t.Errorf("a body that is too long: %s", a.body)
	}
}
