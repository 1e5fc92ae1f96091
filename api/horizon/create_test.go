package horizon_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

// TestCreate looks at what becomes of each field (section 6.5), by either method that takes JSON.
func TestCreate(t *testing.T) {
	for _, row := range []struct {
		name, body string
		want       daemon.Image
	}{
		{"defaults", `{"name":null,"x":"y"}`, daemon.Image{Metadata: map[string]string{"x": "y"}}},
		{"everything", `{"name":"n","description":"d","source_type":"file-direct","data":"f.img","disk_format":"qcow2","container_format":"bare","kernel":"k",
			"ramdisk":"r","architecture":"a","min_disk":1,"min_ram":"2","visibility":"shared","protected":true,"import_data":false,"is_public":true,"tags":["t"],
			"properties":{"a":1},"hw_disk_bus":"virtio","☐":"😀","os_hidden":"True"}`,
			daemon.Image{Name: "n", Description: "d", Format: "qcow2", MinDiskGB: 1, MinRAMMB: 2, Visibility: daemon.Shared, Protected: true,
				Metadata: map[string]string{"kernel_id": "k", "ramdisk_id": "r", "architecture": "a", "hw_disk_bus": "virtio", "☐": "😀", "os_hidden": "true"}}},
		{"empty", `{"name":"","description":"","visibility":"","min_disk":"","min_ram":null,"kernel":"","ramdisk":null,"architecture":"","disk_format":"",
			"container_format":"","protected":"false","source_type":"","image_url":"","os_hidden":false}`, daemon.Image{Metadata: map[string]string{"os_hidden": "false"}}},
		{"known names are no properties", `{"id":"x","status":"y","owner":"mallory","size":1,"checksum":{},"created_at":[],"deleted":true,"kernel_id":"z","name":"n"}`,
			daemon.Image{Name: "n"}},
	} {
		for _, method := range []string{"PUT", "POST"} {
			t.Run(row.name+" "+method, func(t *testing.T) {
				w := newWorld(t)
				a := w.ajax(method, "/api/glance/images/", row.body)
				expect(t, a, 201, `"queued"`)
				got, _, _ := w.daemon.Peek(dialecttest.Decode[struct{ ID string }](t, a).ID)
				want := row.want
				want.ID, want.State, want.Owner, want.CreatedAt, want.UpdatedAt = got.ID, daemon.ImagePending, "alice", got.CreatedAt, got.UpdatedAt
				if want.Visibility == "" {
					want.Visibility = daemon.Private
				}
				if want.Metadata == nil {
					want.Metadata = map[string]string{}
				}
				if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestCreateReplies(t *testing.T) {
	w := newWorld(t)
	a := w.ajax("PUT", "/api/glance/images/", `{"name":"a/ b?\r\nX-Evil: 1","data":"f"}`)
	expect(t, a, 201, "upload_url")
	if got := a.Header.Get("Location"); got != "/api/glance/images/a%2F%20b%3F%0D%0AX-Evil:%201" {
		t.Errorf("Location %q", got)
	}
	got := dialecttest.Decode[map[string]any](t, a)
	if got["upload_url"] != "http://host.example/image/v2/images/"+got["id"].(string)+"/file" || got["token_id"] != "alice" || got["name"] != "a/ b?\r\nX-Evil: 1" {
		t.Errorf("%v", got)
	}
	// A token that came another way is not told.
	a = w.ajax("PUT", "/api/glance/images/", `{"name":"b","source_type":"file-direct"}`, "X-Auth-Token", "", "Authorization", "Bearer alice")
	if got := dialecttest.Decode[map[string]any](t, a); a.Status != 201 || got["token_id"] != nil || got["upload_url"] == nil {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	for _, body := range []string{`{"name":"c"}`, `{"name":"d","source_type":"url","image_url":"https://x.example/y"}`, `{"name":"e","image_url":"https://x.example/y","import_data":true,"data":"f"}`} {
		a := w.ajax("POST", "/api/glance/images/", body)
		if got := dialecttest.Decode[map[string]any](t, a); a.Status != 201 || got["upload_url"] != nil || len(got) != 17 {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
		if (a.Header.Get("X-Operation") != "") != strings.Contains(body, "url") {
			t.Errorf("%s: operation %q", body, a.Header.Get("X-Operation"))
		}
	}
	expect(t, w.ajax("PUT", "/api/glance/images/", `{"name":"a/ b?\r\nX-Evil: 1"}`), 409, "name")
	expect(t, w.ajax("PUT", "/api/glance/images/", `{"name":"p","visibility":"public"}`), 403, "administrators")
	expect(t, w.ajax("PUT", "/api/glance/images/", `{"name":"p","visibility":"public"}`, "X-Auth-Token", "admin"), 201, `"is_public":true`)
	if n := len(w.daemon.Living()); n != 6 {
		t.Errorf("%d images", n)
	}
}

var badFields = []struct{ name, body, want string }{
	{"visibility", `{"visibility":"everyone"}`, "invalid visibility option: everyone"},
	{"visibility of another type", `{"visibility":1}`, "visibility"},
	{"name", `{"name":1}`, "name"},
	{"long name", `{"name":"` + strings.Repeat("n", 256) + `"}`, "bounds"},
	{"description", `{"description":{}}`, "description"},
	{"format", `{"disk_format":"iso"}`, "raw or qcow2"},
	{"ami", `{"disk_format":"ami"}`, "raw or qcow2"},
	{"format of another type", `{"disk_format":["raw"]}`, "disk_format"},
	{"container", `{"container_format":"docker"}`, "bare"},
	{"negative", `{"min_disk":-1}`, "min_disk"},
	{"negative in a string", `{"min_ram":"-1"}`, "min_ram"},
	{"fraction", `{"min_ram":1.5}`, "min_ram"},
	{"exponent", `{"min_ram":1e3}`, "min_ram"},
	{"huge", `{"min_ram":99999999999}`, "min_ram"},
	{"boolean for a number", `{"min_disk":true}`, "min_disk"},
	{"protected", `{"protected":"maybe"}`, "protected"},
	{"protected number", `{"protected":1}`, "protected"},
	{"kernel", `{"kernel":1}`, "kernel"},
	{"property number", `{"a":1}`, "must be a string"},
	{"property null", `{"a":null}`, "must be a string"},
	{"property list", `{"a":["b"]}`, "must be a string"},
	{"property without a name", `{"":"b"}`, "bounds"},
	{"property with a long name", `{"` + strings.Repeat("☐", 256) + `":"b"}`, "bounds"},
	{"hidden", `{"os_hidden":"x"}`, "os_hidden"},
	{"computed", `{"os_hash_value":"x"}`, "not for callers"},
	{"locations", `{"locations":[]}`, "not for callers"},
}

func TestBadCreations(t *testing.T) {
	w := newWorld(t)
	for _, row := range append(badFields, []struct{ name, body, want string }{
		{"source", `{"source_type":"magic"}`, "source_type"},
		{"source of another type", `{"source_type":{}}`, "source_type"},
		{"file in JSON", `{"source_type":"file-legacy"}`, "source_type"},
		{"no URL", `{"source_type":"url"}`, "image_url is missing"},
		{"URL of another type", `{"image_url":1}`, "image_url"},
		{"file of another type", `{"data":{}}`, "data"},
		{"import", `{"import_data":"x"}`, "import_data"},
	}...) {
		t.Run(row.name, func(t *testing.T) {
			expect(t, w.ajax("PUT", "/api/glance/images/", row.body), 400, row.want)
			expect(t, w.ajax("POST", "/api/glance/images/", row.body), 400, row.want)
		})
	}
	if n := len(w.daemon.Living()); n != 0 {
		t.Errorf("%d images are left", n)
	}
	expect(t, w.ajax("PUT", "/api/glance/images/", many(129)), 413, "exceeded")
	expect(t, w.ajax("PUT", "/api/glance/images/", many(128)), 201, "")
	expect(t, w.Ask("PUT", "/api/glance/images/", "name=x", "X-Requested-With", "XMLHttpRequest", "Content-Type", "application/x-www-form-urlencoded"), 400, "malformed JSON")
}

// many is a body of n properties.
func many(n int) string {
	var out []string
	for range n {
		out = append(out, `"p`+strings.Repeat("x", len(out))+`":"v"`)
	}
	return "{" + strings.Join(out, ",") + "}"
}
