package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

const createForm = "imageid=image-1&loginusername=dcuser&loginpassword=secret"

// What HTTP itself refuses, and how: before any verb is called.
func TestRefusals(t *testing.T) {
	h := start(t, nil)
	const image = `{"name":"n","path":"/p"}`
	for _, row := range []struct {
		name, method, path, body string
		head                     []string
		status                   int
		text                     string
	}{
		{name: "JSON to the capsule dialect", method: "POST", path: "/createvm", body: "{}", head: []string{"Content-Type: application/json"}, status: 415, text: "application/x-www-form-urlencoded"},
		{name: "multipart", method: "POST", path: "/createvm", body: createForm, head: []string{"Content-Type: multipart/form-data; boundary=x"}, status: 415},
		{name: "another charset", method: "POST", path: "/createvm", body: createForm, head: []string{"Content-Type: application/x-www-form-urlencoded; charset=latin1"}, status: 415},
		{name: "two media types", method: "POST", path: "/show", body: "", head: []string{"Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded"}, status: 415},
		{name: "compressed", method: "POST", path: "/createvm", body: createForm, head: []string{"Content-Encoding: gzip"}, status: 415},
		{name: "form to the native dialect", method: "POST", path: "/v1/images", body: image, head: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, text: "application/json"},
		{name: "10 MB parameter", method: "POST", path: "/createvm", body: createForm + "&title=" + strings.Repeat("a", 10<<20), status: 413, text: "exceeds"},
		{name: "10 MB document", method: "POST", path: "/v1/images", body: strings.Repeat("a", 10<<20), status: 413},
		{name: "parameters in the query", method: "POST", path: "/launchvm?vmid=" + firstCapsule, status: 400, text: "query string"},
		{name: "empty query", method: "POST", path: "/show?", status: 400, text: "query string"},
		{name: "query of the native dialect", method: "POST", path: "/v1/images?public=true", body: image, status: 400, text: "query string"},
		{name: "unknown in a query", method: "GET", path: "/listvms?vmid=x", status: 400, text: "no parameter is allowed"},
		{name: "unknown in an operations query", method: "GET", path: "/v1/operations?owner=x", status: 400, text: "allowed: target, state, limit"},
		{name: "state", method: "GET", path: "/v1/operations?state=done", status: 400, text: "running, succeeded, failed"},
		{name: "limit", method: "GET", path: "/v1/operations?limit=0", status: 400, text: "from 1 to 1000"},
		{name: "wait", method: "GET", path: "/v1/operations/op-1?wait=61", status: 400, text: "from 0 to 60"},
		{name: "wait twice", method: "GET", path: "/v1/operations/op-1?wait=1&wait=2", status: 400, text: "more than once"},
		{name: "query of an image", method: "GET", path: "/v1/images/image-1?x=1", status: 400},
		{name: "query of a delete", method: "DELETE", path: "/v1/images/image-1?force=true", status: 400},
		{name: "relative image", method: "POST", path: "/v1/images", body: `{"name":"n","path":"p"}`, status: 400, text: "absolute"},
		{name: "image through ..", method: "POST", path: "/v1/images", body: `{"name":"n","path":"/srv/../etc/shadow"}`, status: 400, text: "absolute"},
		{name: "image without a name", method: "POST", path: "/v1/images", body: `{"path":"/p"}`, status: 400, text: "name must not be empty"},
		{name: "image with a NUL", method: "POST", path: "/v1/images", body: `{"name":"n","path":"/p\u0000"}`, status: 400, text: "path must not contain control"},
		{name: "image with a URL", method: "POST", path: "/v1/images", body: `{"name":"n","path":"http://169.254.169.254/"}`, status: 400, text: "absolute"},
		{name: "image id with a path", method: "GET", path: "/v1/images/..%2F..%2Fetc", status: 404},
		{name: "image id in escapes", method: "GET", path: "/v1/images/%1b%5b", status: 404, text: "no such image"},
		{name: "switch in a query", method: "POST", path: "/switchvm?vmid=" + firstCapsule + "&mode=secure", status: 400, text: "query string"},
		{name: "switch in JSON", method: "POST", path: "/switchvm", body: `{"mode":"secure"}`, head: []string{"Content-Type: application/json"}, status: 415},
		{name: "switch without a mode", method: "POST", path: "/switchvm", body: "vmid=" + firstCapsule, status: 400, text: "mode is missing"},
		{name: "review without the data", method: "POST", path: "/switchvm", body: "vmid=" + firstCapsule + "&mode=maintenance&review=true", status: 400, text: "review goes with mode secure"},
		{name: "capsule id with a path", method: "GET", path: "/v1/capsules/..%2F..%2Fproof", status: 404, text: "no such capsule"},
		{name: "capsule id that is none", method: "GET", path: "/v1/capsules/cap-00000001/proof", status: 404, text: "no such capsule"},
		{name: "capsule id as URN", method: "POST", path: "/v1/capsules/urn:uuid:" + firstCapsule + "/resume", status: 404, text: "no such capsule"},
		{name: "capsule of a type in a query", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/type?type=DEMO", body: `{"type":"DEMO"}`, status: 400, text: "query string"},
		{name: "no type", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/type", body: `{}`, status: 400, text: "type must be one of DEMO, RESEARCH, RESEARCH-FULL"},
		{name: "null type", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/type", body: `{"type":null}`, status: 400, text: "must not be null"},
		{name: "type and more", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/type", body: `{"type":"DEMO","full_access":true}`, status: 400, text: "(allowed: type)"},
		{name: "type as a form", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/type", body: `type=DEMO`, head: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415},
		{name: "resume with a body", method: "POST", path: "/v1/capsules/" + firstCapsule + "/resume", body: `{"force":true}`, status: 400, text: "takes no body"},
		{name: "resume with a query", method: "POST", path: "/v1/capsules/" + firstCapsule + "/resume?force=1", status: 400, text: "no parameter is allowed"},
		{name: "reload with a body", method: "POST", path: "/v1/policies/reload", body: `{}`, status: 400, text: "takes no body"},
		{name: "query of a proof", method: "GET", path: "/v1/capsules/" + firstCapsule + "/proof?cached=1", status: 400, text: "no parameter is allowed"},
		{name: "query of a list", method: "GET", path: "/v1/capsules?state=RUNNING", status: 400, text: "no parameter is allowed"},
		{name: "no packet", method: "GET", path: "/v1/capsules/" + firstCapsule + "/policy/explain", status: 400, text: "packet is missing"},
		{name: "packet twice", method: "GET", path: "/v1/capsules/" + firstCapsule + "/policy/explain?packet=a&packet=b", status: 400, text: "more than once"},
		{name: "packet with a newline", method: "GET", path: "/v1/capsules/" + firstCapsule + "/policy/explain?packet=a%0Ab", status: 400, text: "control characters"},
		{name: "DELETE of a native capsule", method: "DELETE", path: "/v1/capsules/" + firstCapsule, status: 405},
		{name: "PUT of a resume", method: "PUT", path: "/v1/capsules/" + firstCapsule + "/resume", status: 405, text: "POST"},
		{name: "image of a path and a URL", method: "POST", path: "/v1/images", body: `{"name":"n","path":"/p","url":"https://h/x"}`, status: 400, text: "exclude each other"},
		{name: "bytes of a path", method: "POST", path: "/v1/images", body: `{"name":"n","path":"/p","bytes":5}`, status: 400, text: "without path and url"},
		{name: "no bytes", method: "POST", path: "/v1/images", body: `{"name":"n","bytes":0}`, status: 400, text: "at least 1"},
		{name: "digest in capitals", method: "POST", path: "/v1/images", body: `{"name":"n","digest":"sha256:` + strings.Repeat("A", 64) + `"}`, status: 400, text: "lower-case hexadecimal"},
		{name: "public and private", method: "POST", path: "/v1/images", body: `{"name":"n","public":true,"visibility":"private"}`, status: 400, text: "contradict"},
		{name: "visibility", method: "POST", path: "/v1/images", body: `{"name":"n","visibility":"everybody"}`, status: 400, text: "private, public, shared, community"},
		{name: "format", method: "POST", path: "/v1/images", body: `{"name":"n","format":"vmdk"}`, status: 400, text: "raw, qcow2"},
		{name: "small disk", method: "POST", path: "/v1/images", body: `{"name":"n","min_disk_gb":-1}`, status: 400, text: "min_disk_gb must be"},
		{name: "large memory", method: "PATCH", path: "/v1/images/image-1", body: `{"min_ram_mb":1073741825}`, status: 400, text: "min_ram_mb must be"},
		{name: "rename to nothing", method: "PATCH", path: "/v1/images/image-1", body: `{"name":""}`, status: 400, text: "name must not be empty"},
		{name: "change of the state", method: "PATCH", path: "/v1/images/image-1", body: `{"state":"ACTIVE"}`, status: 400, text: "unknown"},
		{name: "replace and remove", method: "PATCH", path: "/v1/images/image-1", body: `{"replace_metadata":true,"remove_metadata":["a"]}`, status: 400, text: "exclude each other"},
		{name: "state of a list", method: "GET", path: "/v1/images?state=active", status: 400, text: "SHARE_PENDING, ACTIVE"},
		{name: "limit of a list", method: "GET", path: "/v1/images?limit=1001", status: 400, text: "from 1 to 1000"},
		{name: "marker of a list", method: "GET", path: "/v1/images?marker=../x", status: 400, text: "marker must be"},
		{name: "later", method: "DELETE", path: "/v1/images/image-1?later=perhaps", status: 400, text: "true or false"},
		{name: "gc of a kind", method: "POST", path: "/v1/images/gc?force=true", status: 400, text: "allowed: dry_run"},
		{name: "gc with a body", method: "POST", path: "/v1/images/gc", body: `{"dry_run":true}`, status: 400, text: "takes no body"},
		{name: "GET of gc", method: "GET", path: "/v1/images/gc", status: 405, text: "POST"},
		{name: "verify with a body", method: "POST", path: "/v1/images/image-1/verify", body: `{}`, status: 400, text: "takes no body"},
		{name: "cancel with a body", method: "POST", path: "/v1/operations/op-1/cancel", body: `{}`, status: 400, text: "takes no body"},
		{name: "share of nothing", method: "POST", path: "/v1/capsules/" + firstCapsule + "/share", body: `{"public":true}`, status: 400, text: "name must not be empty"},
		{name: "share of no capsule", method: "POST", path: "/v1/capsules/nonsense/share", body: `{"name":"n"}`, status: 404, text: "no such capsule"},
		{name: "file in JSON", method: "PUT", path: "/v1/images/image-1/file", body: `{}`, status: 415, text: "application/octet-stream"},
		{name: "compressed file", method: "PUT", path: "/v1/images/image-1/file", body: `x`, head: []string{"Content-Type: application/octet-stream", "Content-Encoding: gzip"}, status: 415},
		{name: "file with a query", method: "PUT", path: "/v1/images/image-1/file?force=1", status: 400, text: "allowed: finish"},
		{name: "offset", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Upload-Offset: -1"}, status: 400, text: "Upload-Offset"},
		{name: "offset in hexadecimal", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Upload-Offset: 0x10"}, status: 400, text: "Upload-Offset"},
		{name: "two offsets", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Upload-Offset: 0", "Upload-Offset: 1"}, status: 400, text: "once"},
		{name: "offset and range", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Upload-Offset: 0", "Content-Range: bytes 0-0/1"}, status: 400, text: "once"},
		{name: "range without a size", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Content-Range: bytes 0-0"}, status: 400, text: "of the form"},
		{name: "range of lines", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Content-Range: lines 0-0/1"}, status: 400, text: "of the form"},
		{name: "range beyond its size", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Content-Range: bytes 1-1/1"}, status: 400, text: "below TOTAL"},
		{name: "range backwards", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Content-Range: bytes 5-4/*"}, status: 400, text: "not above LAST"},
		{name: "range unlike the body", method: "PUT", path: "/v1/images/image-1/file", body: "x", head: []string{"Content-Type: application/octet-stream", "Content-Range: bytes 0-9/*"}, status: 400, text: "has 10 bytes, and the body 1"},
		{name: "export with a query", method: "GET", path: "/v1/images/image-1/file?offset=1", status: 400, text: "no parameter is allowed"},
		{name: "POST of a file", method: "POST", path: "/v1/images/image-1/file", status: 405, text: "GET, PUT, HEAD"},
		{name: "share in small letters", method: "POST", path: "/shareimage", body: "vmid=" + firstCapsule + "&imageName=n&imageDescription=&public=true", status: 400, text: "vmId is missing"},
		{name: "share without all", method: "POST", path: "/shareimage", body: "vmId=" + firstCapsule, status: 400, text: "imageName is missing; imageDescription is missing; public is missing"},
		{name: "share in JSON", method: "POST", path: "/shareimage", body: `{}`, head: []string{"Content-Type: application/json"}, status: 415},
		{name: "describe in a query", method: "PUT", path: "/shareimage?imageId=image-1", status: 400, text: "query string"},
		{name: "delete in a query", method: "DELETE", path: "/deleteimage?imageId=image-1", status: 400, text: "query string"},
		{name: "query of my images", method: "GET", path: "/listmyimages?state=ERROR", status: 400, text: "no parameter is allowed"},
		{name: "POST of an activation", method: "POST", path: "/activateimage", body: "imageId=image-1", status: 405, text: "PUT"},
		{name: "GET of a POST", method: "GET", path: "/createvm", status: 405, text: "POST"},
		{name: "DELETE of a capsule", method: "DELETE", path: "/sloan-ws/deletevm", status: 405},
		{name: "OPTIONS", method: "OPTIONS", path: "/v1/images", status: 405},
		{name: "TRACE", method: "TRACE", path: "/show", status: 405},
		{name: "a method of their own", method: "BREW", path: "/healthz", status: 405, text: "GET, HEAD"},
		{name: "prefix alone", method: "POST", path: "/sloan-ws", status: 404},
		{name: "native under the prefix", method: "GET", path: "/sloan-ws/v1/images", status: 404},
		{name: "trailing slash", method: "POST", path: "/show/", status: 404},
		{name: "double slash", method: "POST", path: "//show", status: 404},
		{name: "dots", method: "POST", path: "/x/../show", status: 404},
		{name: "capitals", method: "POST", path: "/Show", status: 404},
		{name: "unknown version", method: "GET", path: "/v3/images", status: 404},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request(t, row.method, "http://capsuled"+row.path, row.body)
			for _, line := range row.head {
				name, _, _ := strings.Cut(line, ": ")
				r.Header.Del(name)
			}
			for _, line := range row.head {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Add(name, value)
			}
			a := do(t, h.unix, r)
			if a.StatusCode != row.status || !strings.Contains(a.body, row.text) {
				t.Errorf("got %d %s, want %d with %q", a.StatusCode, a.body, row.status, row.text)
			}
			checkEnvelope(t, a, strings.HasPrefix(row.path, "/v1") || row.path == "/healthz")
			if a.StatusCode == 405 && a.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
	if h.callers != nil {
		t.Errorf("verbs were called: %v", h.callers)
	}
}

// checkEnvelope holds an error reply to its dialect's shape.
func checkEnvelope(t *testing.T, a answer, native bool) {
	t.Helper()
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get(wire.ErrorCodeHeader) == "" || a.Header.Get("X-Request-Id") == "" {
		t.Errorf("header %v", a.Header)
	}
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if native {
		var p wire.Problem
		if err := dec.Decode(&p); err != nil || p.Code != a.Header.Get(wire.ErrorCodeHeader) || p.Message == "" || p.Request != a.Header.Get("X-Request-Id") {
			t.Errorf("%v: %+v", err, p)
		}
		return
	}
	var e wire.Error
	if err := dec.Decode(&e); err != nil || e.StatusCode != a.StatusCode || e.Description == "" {
		t.Errorf("%v: %+v", err, e)
	}
}

func TestStatusOfCodes(t *testing.T) {
	h := start(t, nil)
	for _, row := range []struct {
		code            daemon.Code
		capsule, native int
		retry           string
	}{
		{daemon.Invalid, 400, 400, ""},
		{daemon.Unauthorized, 401, 401, ""},
		{daemon.Forbidden, 400, 403, ""},
		{daemon.NotFound, 400, 404, ""},
		{daemon.Conflict, 400, 409, ""},
		{daemon.Gone, 400, 409, ""},
		{daemon.Busy, 400, 409, "1"},
		{daemon.OverQuota, 400, 403, ""},
		{daemon.Exhausted, 500, 507, ""},
		{daemon.Unsupported, 501, 501, ""},
		{daemon.Unavailable, 503, 503, "5"},
	} {
		h.set(func(f *fakeDaemon) {
			f.fail = &daemon.Error{Code: row.code, Message: "the sentence", Err: errors.New("the cause")}
		})
		for path, want := range map[string]int{"/listvms": row.capsule, "/v1/images": row.native} {
			a := h.local(t, "GET", path, "")
			if a.StatusCode != want || a.Header.Get("Retry-After") != row.retry || a.Header.Get(wire.ErrorCodeHeader) != string(row.code) {
				t.Errorf("%s %s: %d %v", path, row.code, a.StatusCode, a.Header)
			}
			if !strings.Contains(a.body, "the sentence") || strings.Contains(a.body, "the cause") {
				t.Errorf("%s %s: %s", path, row.code, a.body)
			}
			checkEnvelope(t, a, path == "/v1/images")
		}
	}
}

// Whatever a call would have answered, a refusal of its verb is what it answers.
func TestEveryCallPassesRefusalsOn(t *testing.T) {
	h := start(t, nil)
	if a := h.local(t, "POST", "/createvm", createForm); a.StatusCode != 200 {
		t.Fatal(a.body)
	}
	h.set(func(f *fakeDaemon) { f.fail = &daemon.Error{Code: daemon.Unsupported, Message: "the sentence"} })
	capsule, vmid := "/v1/capsules/"+firstCapsule, "vmid="+firstCapsule
	for _, row := range []struct{ method, path, body string }{
		{"POST", "/createvm", createForm}, {"POST", "/launchvm", vmid}, {"POST", "/stopvm", vmid}, {"POST", "/deletevm", vmid},
		{"POST", "/switchvm", vmid + "&mode=secure"}, {"POST", "/show", ""}, {"POST", "/show", vmid}, {"GET", "/listvms", ""},
		{"GET", "/v1/capsules", ""}, {"GET", capsule, ""}, {"POST", capsule + "/resume", ""}, {"PUT", capsule + "/type", `{"type":"DEMO"}`},
		{"GET", capsule + "/proof", ""}, {"GET", capsule + "/records", ""}, {"GET", capsule + "/policy", ""},
		{"GET", capsule + "/policy/explain?packet=icmp+to+host", ""}, {"GET", "/v1/policies", ""}, {"POST", "/v1/policies/reload", ""},
		{"GET", "/v1/doctor", ""}, {"GET", "/v1/operations", ""}, {"GET", "/v1/operations/op-1", ""}, {"GET", "/v1/images", ""},
		{"GET", "/v1/images/image-1", ""}, {"DELETE", "/v1/images/image-1", ""}, {"POST", "/v1/images", `{"name":"n","path":"/p"}`},
		{"DELETE", "/v1/images/image-1?later=true", ""}, {"PATCH", "/v1/images/image-1", `{}`}, {"POST", "/v1/images/gc", ""},
		{"POST", "/v1/images/image-1/verify", ""}, {"PUT", "/v1/images/image-1/file", ""}, {"PUT", "/v1/images/image-1/file?finish=true", ""},
		{"GET", "/v1/images/image-1/file", ""}, {"POST", capsule + "/share", `{"name":"n"}`}, {"POST", "/v1/operations/op-1/cancel", ""},
		{"POST", "/shareimage", "vmId=" + firstCapsule + "&imageName=n&imageDescription=&public=false"},
		{"PUT", "/shareimage", "imageId=image-1&imageName=n&imageDescription=&public=false"},
		{"PUT", "/activateimage", "imageId=image-1"}, {"GET", "/checkimagename?imageName=n", ""}, {"GET", "/listallimages", ""},
		{"GET", "/listactiveimages", ""}, {"GET", "/listmyimages", ""}, {"GET", "/getimage?imageId=image-1", ""},
		{"PUT", "/requestimagedelete", "imageId=image-1"}, {"DELETE", "/deleteimage", "imageId=image-1"},
	} {
		a := h.local(t, row.method, row.path, row.body)
		if a.StatusCode != 501 || !strings.Contains(a.body, "the sentence") || a.Header.Get("Operation-Location") != "" {
			t.Errorf("%s %s: %d %s", row.method, row.path, a.StatusCode, a.body)
		}
		checkEnvelope(t, a, strings.HasPrefix(row.path, "/v1/"))
	}
}

// The text of what nobody foresaw stays in the log.
func TestInternalErrorsStayInside(t *testing.T) {
	for _, row := range []struct {
		name   string
		fail   error
		status int
		logged string
	}{
		{"a stranger", errors.New("/var/lib/capsuled: /secret-place"), 500, "/secret-place"},
		{"internal", &daemon.Error{Code: daemon.Internal, Message: "the /secret-place", Err: errors.New("why")}, 500, "/secret-place: why"},
		{"an unknown code", &daemon.Error{Code: "surprise", Message: "the /secret-place"}, 500, "/secret-place"},
		{"wrapped", fmt.Errorf("/secret-place: %w", &daemon.Error{Code: daemon.Unavailable, Message: "libvirt is away"}), 503, "/secret-place"},
		{"deadline", fmt.Errorf("/secret-place: %w", context.DeadlineExceeded), 503, "/secret-place"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := start(t, nil)
			h.set(func(f *fakeDaemon) { f.fail = row.fail })
			for _, path := range []string{"/listvms", "/v1/images"} {
				a := h.local(t, "GET", path, "")
				if a.StatusCode != row.status || strings.Contains(a.body, "secret-place") {
					t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
				}
				if id := a.Header.Get("X-Request-Id"); !strings.Contains(h.log.String(), "request="+id) || !strings.Contains(h.log.String(), row.logged) {
					t.Errorf("%s is not in the log:\n%s", id, h.log)
				}
			}
		})
	}
}

// What a verb gets is what was sent, in normal form.
func TestCreateReachesTheDaemon(t *testing.T) {
	h := start(t, nil)
	a := h.local(t, "POST", "/createvm", createForm+"&memory=4096&vcpu=4&type=RESEARCH-FULL&consent=false&title=T&desc_requirement=R",
		"X-Request-Id: mine")
	if a.StatusCode != 200 {
		t.Fatal(a.StatusCode, a.body)
	}
	got := h.asked[0]
	if got.ImageID != "image-1" || got.LoginUser != "dcuser" || got.LoginPassword != "secret" || got.MemoryMB != 4096 || got.VCPUs != 4 ||
		got.Type != daemon.ResearchFull || got.Consent == nil || *got.Consent || got.FullAccess != nil || *got.About.Title != "T" ||
		*got.About.DescRequirement != "R" || got.About.DescNature != nil {
		t.Errorf("got %+v", got)
	}
	if c := h.lastCaller(); c.GUID != "root" || !c.Local || c.From != "unix:uid=0" || c.Request != "mine" {
		t.Errorf("caller %+v", c)
	}
	if a := h.local(t, "GET", "/v1/operations?target="+firstCapsule+"&state=failed&limit=7", ""); a.StatusCode != 200 {
		t.Error(a.body)
	}
	if want := (daemon.OperationFilter{Target: firstCapsule, State: daemon.OperationFailed, Limit: 7}); h.filter != want {
		t.Errorf("filter %+v", h.filter)
	}
}
