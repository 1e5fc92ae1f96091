package glance_test

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

// TestImage compares the whole of what is shown.
func TestImage(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 2, 3, 4, 5, 6, 999999000, time.UTC)
	id := w.active(daemon.Image{
		Name: "n", Description: "d", Visibility: daemon.Community, Protected: true, Digest: "sha256:ab", Format: "qcow2", FileBytes: 7, VirtualBytes: 9, MinDiskGB: 1,
		MinRAMMB: 2, CreatedAt: at, UpdatedAt: at, LoginPassword: "secret",
		Metadata: map[string]string{"a": "b", "tags": `["x","y"]`, "os_hidden": "true", "owner": "mallory", "self": "x", "description": "shadow", "locations": "l"},
	})
	want := map[string]any{
		"id": id, "name": "n", "status": "active", "visibility": "community", "protected": true, "owner": "alice", "min_disk": 1.0, "min_ram": 2.0, "disk_format": "qcow2",
		"container_format": "bare", "tags": []any{"x", "y"}, "os_hidden": true, "size": 7.0, "virtual_size": 9.0, "checksum": nil, "os_hash_algo": "sha256",
		"os_hash_value": "ab", "created_at": "2026-02-03T04:05:06Z", "updated_at": "2026-02-03T04:05:06Z", "self": "/v2/images/" + id,
		"file": "/v2/images/" + id + "/file", "schema": "/v2/schemas/image", "a": "b", "description": "d",
	}
	if diff := cmp.Diff(want, dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/images/"+id, ""))); diff != "" {
		t.Error(diff)
	}
	queued := dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/images/"+w.active(daemon.Image{State: daemon.ImagePending}), ""))
	for _, name := range []string{"name", "size", "virtual_size", "disk_format", "os_hash_value", "os_hash_algo"} {
		if v, ok := queued[name]; !ok || v != nil {
			t.Errorf("%s of a queued image is %v", name, v)
		}
	}
}

// TestLife is what clients do: create, upload, look, download, delete (section 10; section 13, vector 13).
func TestLife(t *testing.T) {
	w := newWorld(t)
	a := w.ask("POST", "/v2/images", `{"name":"n","disk_format":"raw","container_format":"bare","visibility":"private","hw_disk_bus":"virtio","tags":["a"]}`)
	expect(t, a, 201, `"status":"queued"`)
	id := dialecttest.Decode[struct{ ID string }](t, a).ID
	if a.Header.Get("Location") != "http://host.example/image/v2/images/"+id {
		t.Errorf("Location %q", a.Header.Get("Location"))
	}
	path := "/v2/images/" + id
	expect(t, w.ask("GET", path+"/file", ""), 204, "")
	expect(t, w.ask("PATCH", path, `[{"op":"add","path":"/a","value":"b"}]`), 409, "")
	a = w.ask("PUT", path+"/file", "the bytes")
	expect(t, a, 204, "")
	if a.Header.Get("X-Operation") == "" || w.Patient != 1 {
		t.Errorf("operation %q, and %d", a.Header.Get("X-Operation"), w.Patient)
	}
	expect(t, w.ask("GET", path, ""), 200, `"status":"active"`)
	expect(t, w.ask("PUT", path+"/file", "others"), 409, "")
	a = w.ask("GET", path+"/file", "")
	expect(t, a, 200, "the bytes")
	for _, absent := range []string{"Etag", "Content-Md5", "Digest", "Last-Modified"} {
		if a.Header.Get(absent) != "" {
			t.Errorf("%s: %s", absent, a.Header.Get(absent))
		}
	}
	if a.Header.Get("Content-Type") != "application/octet-stream" || a.Header.Get("Content-Length") != "9" {
		t.Errorf("%v", a.Header)
	}
	expect(t, w.ask("DELETE", path, ""), 204, "")
	for _, gone := range [][2]string{{"GET", ""}, {"GET", "/file"}, {"DELETE", ""}, {"PATCH", ""}, {"PUT", "/tags/x"}} {
		body := ""
		if gone[0] == "PATCH" {
			body = "[]"
		}
		expect(t, w.ask(gone[0], path+gone[1], body), 404, "")
	}
	if a := w.ask("GET", "/v2/images", ""); a.Body != `{"images":[],"first":"/v2/images","schema":"/v2/schemas/images"}` {
		t.Errorf("what is deleted is listed: %s", a.Body)
	}
	expect(t, w.ask("DELETE", "/v2/images/"+w.active(daemon.Image{Protected: true}), ""), 403, "protected")
	expect(t, w.ask("DELETE", "/v2/images/"+w.active(daemon.Image{State: daemon.ImagePending}), ""), 204, "")
}

func TestRanges(t *testing.T) {
	w := newWorld(t)
	path := "/v2/images/" + w.active(daemon.Image{}) + "/file"
	for given, want := range map[string]struct {
		status int
		body   string
	}{"bytes=2-4": {206, "234"}, "bytes=-2": {206, "89"}, "bytes=8-": {206, "89"}, "nonsense": {416, ""}, "bytes=20-": {416, ""}} {
		a := w.ask("GET", path, "", "Range", given)
		if a.Status != want.status || want.body != "" && a.Body != want.body {
			t.Errorf("%s: %d %q", given, a.Status, a.Body)
		}
	}
}

func TestUploads(t *testing.T) {
	w := newWorld(t)
	queued := func() string { return w.active(daemon.Image{State: daemon.ImagePending, Format: "qcow2"}) }
	id := queued()
	expect(t, w.ask("PUT", "/v2/images/"+id+"/file", "x", "Content-Type", "application/json"), 415, "octet-stream")
	expect(t, w.ask("PUT", "/v2/images/"+id+"/file", "x", "Content-Type", ""), 415, "octet-stream")
	expect(t, w.ask("PUT", "/v2/images/"+id+"/file", "raw bytes"), 400, "not what was said")
	expect(t, w.ask("GET", "/v2/images/"+id, ""), 200, `"status":"killed"`)
	expect(t, w.ask("GET", "/v2/images/"+id+"/file", ""), 409, "")

	w.daemon.Slow = true
	slow := queued()
	expect(t, w.ask("PUT", "/v2/images/"+slow+"/file", "QFI"), 204, "")
	expect(t, w.ask("GET", "/v2/images/"+slow, ""), 200, `"status":"saving"`)
	expect(t, w.ask("DELETE", "/v2/images/"+slow, ""), 409, "")

	w.daemon.Slow = false
	cut := queued()
	for _, failure := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF, context.DeadlineExceeded} {
		r := httptest.NewRequest("PUT", "/image/v2/images/"+cut+"/file", io.MultiReader(strings.NewReader("QF"), broken{failure}))
		r.Header.Set("X-Auth-Token", "alice")
		r.Header.Set("Content-Type", "application/octet-stream")
		expect(t, w.Do(r), 400, "too early")
	}
	expect(t, w.ask("PUT", "/v2/images/"+cut+"/file", "QFI"), 204, "") // from the first byte
	if _, data, _ := w.daemon.Peek(cut); data != "QFI" {
		t.Errorf("the bytes are %q", data)
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestCreate(t *testing.T) {
	w := newWorld(t)
	const id = "11111111-1111-4111-8111-111111111111"
	a := w.ask("POST", "/v2/images", `{"id":"`+id+`","name":"n","description":"d","visibility":"shared","protected":true,"min_disk":1,"min_ram":2,"disk_format":"qcow2",
		"container_format":"bare","owner":"alice","tags":["a","a","☐"],"os_hidden":true,"hw_vif_model":"virtio","☐":""}`)
	expect(t, a, 201, "")
	got, _, _ := w.daemon.Peek(id)
	want := daemon.Image{ID: id, Name: "n", Description: "d", State: daemon.ImagePending, Visibility: daemon.Shared, Protected: true, Owner: "alice", Format: "qcow2", MinDiskGB: 1,
		MinRAMMB: 2, Metadata: map[string]string{"tags": `["a","☐"]`, "os_hidden": "true", "hw_vif_model": "virtio", "☐": ""}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(daemon.Image{}, "CreatedAt", "UpdatedAt"), cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
		t.Error(diff)
	}
	expect(t, w.ask("POST", "/v2/images", `{"name":null,"disk_format":null,"container_format":null,"owner":null}`), 201, "")
	expect(t, w.ask("POST", "/v2/images", `{}`), 201, "")
	expect(t, w.ask("POST", "/v2/images", `{"id":"`+id+`"}`), 409, "")
	expect(t, w.ask("POST", "/v2/images", `{"name":"n"}`), 409, "")
	expect(t, w.ask("POST", "/v2/images", `{"visibility":"public"}`), 403, "")
	expect(t, w.ask("POST", "/v2/images", `{"owner":"mallory"}`), 403, "")
	expect(t, w.ask("POST", "/v2/images", many(129)), 413, "exceeded")
	expect(t, w.ask("POST", "/v2/images", `{"a":"`+strings.Repeat("v", 114688)+`"}`), 413, "exceeds")
	expect(t, w.ask("POST", "/v2/images", `{}`, "Content-Type", "text/plain"), 415, "application/json")
	for _, name := range []string{"status", "size", "checksum", "os_hash_value", "created_at", "self", "file", "schema", "locations"} {
		expect(t, w.ask("POST", "/v2/images", `{"`+name+`":"x"}`), 403, "read-only")
	}
	for _, body := range []string{"", "{", "[]", "null", `{"a":"b","a":"c"}`, "{\"a\":\"\xff\"}", `{"name":1}`, `{"visibility":null}`, `{"visibility":"x"}`, `{"protected":"true"}`,
		`{"protected":null}`, `{"min_disk":"1"}`, `{"min_disk":-1}`, `{"min_ram":1.5}`, `{"min_ram":99999999999999999999}`, `{"disk_format":"iso"}`, `{"container_format":"ovf"}`,
		`{"tags":"a"}`, `{"tags":null}`, `{"tags":[1]}`, `{"tags":[null]}`, `{"tags":[""]}`, `{"os_hidden":"true"}`, `{"a":1}`, `{"a":null}`, `{"":"a"}`, `{"id":"x"}`, `{"id":1}`,
		`{"name":"` + strings.Repeat("n", 256) + `"}`} {
		expect(t, w.ask("POST", "/v2/images", body), 400, "")
	}
	if n := len(w.daemon.Living()); n != 3 {
		t.Errorf("%d images", n)
	}
}

// many is a body of n properties.
func many(n int) string {
	var out []string
	for range n {
		out = append(out, `"p`+strings.Repeat("x", len(out))+`":"v"`)
	}
	return "{" + strings.Join(out, ",") + "}"
}
