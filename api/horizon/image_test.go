package horizon_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

// TestImage compares the whole of what is shown of an image, in both forms (section 6.3).
func TestImage(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 2, 3, 4, 5, 6, 999999000, time.FixedZone("", 3600))
	id := w.active(daemon.Image{
		ID: "11111111-1111-4111-8111-111111111111", Name: "n <&>", Description: "d", Visibility: daemon.Public, Protected: true, Digest: "sha256:ab", Format: "qcow2",
		FileBytes: 7, VirtualBytes: 9, MinDiskGB: 1, MinRAMMB: 2, CreatedAt: at, UpdatedAt: at.Add(time.Second), LoginUser: "u", LoginPassword: "secret",
		Metadata: map[string]string{"architecture": "x86_64", "kernel_id": "k", "ramdisk_id": "r", "image_url": "u", "tags": `["a","b"]`, "os_hidden": "True",
			"image_type": "snapshot", "☐": "v", "owner": "mallory", "description": "shadowed", "virtual_size": "1", "locations": "x"},
	})
	want := map[string]any{
		"architecture": "x86_64", "checksum": "sha256:ab", "container_format": "bare", "created_at": "2026-02-03T03:05:06Z", "disk_format": "qcow2", "id": id,
		"is_public": true, "min_disk": 1.0, "min_ram": 2.0, "name": "n <&>", "owner": "alice", "protected": true, "size": 7.0, "status": "active",
		"updated_at": "2026-02-03T03:05:07Z", "visibility": "public",
		"properties": map[string]any{"description": "d", "os_hidden": true, "image_type": "snapshot", "☐": "v"},
	}
	listed := dialecttest.Decode[struct{ Items []map[string]any }](t, w.ajax("GET", "/api/glance/images/?os_hidden=true", "")).Items
	if diff := cmp.Diff([]map[string]any{want}, listed); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want["properties"], dialecttest.Decode[any](t, w.ajax("GET", "/api/glance/images/"+id+"/properties/", ""))); diff != "" {
		t.Error(diff)
	}
	want["properties"] = map[string]any{"description": "d", "os_hidden": true, "image_type": "snapshot", "☐": "v", "kernel_id": "k", "ramdisk_id": "r",
		"image_url": "u", "tags": []any{"a", "b"}, "virtual_size": 9.0, "file": "/v2/images/" + id + "/file", "schema": "/v2/schemas/image"}
	one := w.ajax("GET", "/api/glance/images/"+id+"/", "")
	if diff := cmp.Diff(want, dialecttest.Decode[map[string]any](t, one)); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(one.Body, "secret") {
		t.Error("the image's password is told")
	}
}

// TestImageOfNothing finds every key there where there is nothing to say.
func TestImageOfNothing(t *testing.T) {
	w := newWorld(t)
	id := w.active(daemon.Image{State: daemon.ImagePending})
	got := dialecttest.Decode[map[string]any](t, w.ajax("GET", "/api/glance/images/"+id+"/", ""))
	for _, key := range []string{"architecture", "checksum", "disk_format", "name"} {
		if v, ok := got[key]; !ok || v != nil {
			t.Errorf("%s is %v", key, v)
		}
	}
	if got["size"] != 0.0 || got["visibility"] != "private" || got["is_public"] != false || len(got) != 17 {
		t.Errorf("%v", got)
	}
	if a := w.ajax("GET", "/api/glance/images/"+id+"/properties/", ""); a.Body != "{}" {
		t.Errorf("no properties are %s", a.Body)
	}
}

// TestStates walks an image from its first byte to its end (section 3; section 13, vector 13, column H).
func TestStates(t *testing.T) {
	w := newWorld(t)
	w.daemon.Slow = true
	status := func(id, want string) {
		t.Helper()
		if got := dialecttest.Decode[map[string]any](t, w.ajax("GET", "/api/glance/images/"+id+"/", "")); got["status"] != want {
			t.Errorf("status is %v, want %s", got["status"], want)
		}
	}
	listed := func(query string, want int) {
		t.Helper()
		if got := dialecttest.Decode[struct{ Items []any }](t, w.ajax("GET", "/api/glance/images/"+query, "")).Items; len(got) != want {
			t.Errorf("%q lists %d, want %d", query, len(got), want)
		}
	}
	a := w.ajax("PUT", "/api/glance/images/", `{"name":"n","source_type":"url","image_url":"https://images.example/x"}`)
	expect(t, a, 201, `"queued"`)
	if a.Header.Get("X-Operation") == "" {
		t.Error("the operation is not named")
	}
	id := dialecttest.Decode[struct{ ID string }](t, a).ID
	status(id, "queued")
	listed("?status=queued", 1)
	listed("?status=SAVING", 0)
	for _, write := range [][3]string{{"PATCH", "/", `{"name":"m"}`}, {"PATCH", "/properties/", `{"updated":{"a":"b"}}`}, {"DELETE", "/", ""}} {
		expect(t, w.ajax(write[0], "/api/glance/images/"+id+write[1], write[2]), 409, "SHARE_PENDING")
	}
	w.daemon.Settle(id)
	status(id, "active")
	listed("", 1)
	listed("?status=Active", 1)
	expect(t, w.ajax("DELETE", "/api/glance/images/"+id+"/", ""), 204, "")
	status(id, "pending_delete")
	listed("", 0)
	listed("?status=pending_delete", 1)
	for _, write := range [][3]string{{"PATCH", "/", `{"name":"m"}`}, {"PATCH", "/properties/", `{"updated":{"a":"b"}}`}, {"DELETE", "/", ""}} {
		expect(t, w.ajax(write[0], "/api/glance/images/"+id+write[1], write[2]), 404, "deleted")
	}

	arriving := w.active(daemon.Image{State: daemon.ImagePending, Arrived: true})
	status(arriving, "saving")
	listed("?status=saving", 1)
	failed := w.active(daemon.Image{State: daemon.ImageError})
	status(failed, "killed")
	listed("?status=killed", 1)
	status(w.active(daemon.Image{State: "ODD"}), "odd")
	deleted := w.active(daemon.Image{State: daemon.ImageDeleted})
	expect(t, w.ajax("GET", "/api/glance/images/"+deleted+"/", ""), 404, "no image")
	expect(t, w.ajax("GET", "/api/glance/images/"+deleted+"/properties/", ""), 404, "no image")
	listed("?status=deleted", 0)
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	expect(t, w.ajax("DELETE", "/api/glance/images/"+w.active(daemon.Image{Protected: true})+"/", ""), 403, "protected")
	expect(t, w.ajax("DELETE", "/api/glance/images/"+w.active(daemon.Image{State: daemon.ImagePending})+"/", ""), 204, "")
}

// TestTags reads what another dialect may have written under the name.
func TestTags(t *testing.T) {
	for value, want := range map[string][]any{"": {}, `["a"]`: {"a"}, `[]`: {}, `null`: {}, "a,b": {"a,b"}, `[1]`: {"[1]"}, `{"a":1}`: {`{"a":1}`}} {
		w := newWorld(t)
		id := w.active(daemon.Image{Metadata: map[string]string{"tags": value}})
		got := dialecttest.Decode[struct{ Properties map[string]any }](t, w.ajax("GET", "/api/glance/images/"+id+"/", ""))
		if diff := cmp.Diff(want, got.Properties["tags"]); diff != "" {
			t.Errorf("%q: %s", value, diff)
		}
	}
}
