package horizon_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon"
)

var before = daemon.Image{
	Name: "n", Description: "d", State: daemon.ImageActive, Visibility: daemon.Shared, Protected: true, Owner: "alice", Format: "qcow2", MinDiskGB: 1, MinRAMMB: 2,
	Metadata: map[string]string{"a": "b", "kernel_id": "k", "description": "shadow"},
}

// TestPatch finds that what is omitted is reset, and that no property is ever removed (section 6.5).
func TestPatch(t *testing.T) {
	for _, row := range []struct {
		name, body string
		want       daemon.Image
	}{
		{"nothing but a property", `{"c":"d"}`, daemon.Image{Description: "d", Visibility: daemon.Private,
			Metadata: map[string]string{"a": "b", "kernel_id": "k", "c": "d", "description": "shadow"}}},
		{"everything", `{"name":"m","description":"e","visibility":"community","protected":"true","min_disk":"3","min_ram":4,"disk_format":"qcow2","container_format":"bare",
			"kernel":"l","ramdisk":"r","architecture":"x","a":"c","is_public":true}`, daemon.Image{Name: "m", Description: "e", Visibility: daemon.Community, Protected: true,
			MinDiskGB: 3, MinRAMMB: 4, Metadata: map[string]string{"a": "c", "kernel_id": "l", "ramdisk_id": "r", "architecture": "x"}}},
		{"no description", `{"name":"m","description":""}`, daemon.Image{Name: "m", Visibility: daemon.Private, Metadata: map[string]string{"a": "b", "kernel_id": "k"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.daemon.Put(before, "")
			expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", row.body), 204, "")
			got, _, _ := w.daemon.Peek(id)
			want := row.want
			want.ID, want.State, want.Owner, want.Format = id, daemon.ImageActive, "alice", "qcow2"
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(daemon.Image{}, "CreatedAt", "UpdatedAt"), cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadPatches(t *testing.T) {
	w := newWorld(t)
	id := w.daemon.Put(before, "")
	w.active(daemon.Image{Name: "taken"})
	for _, row := range badFields {
		t.Run(row.name, func(t *testing.T) { expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", row.body), 400, row.want) })
	}
	expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", `{"disk_format":"raw"}`), 400, "does not change")
	expect(t, w.ajax("PATCH", "/api/glance/images/"+unknownID+"/", `{"disk_format":"raw"}`), 404, "")
	expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", `{"name":"taken"}`), 409, "taken")
	expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", `{"visibility":"public"}`), 403, "administrators")
	expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/", many(127)), 413, "exceeded")
	got, _, _ := w.daemon.Peek(id)
	want := before
	want.ID = id
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(daemon.Image{}, "CreatedAt", "UpdatedAt"), cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
		t.Error(diff)
	}
}

// TestPatchProperties is section 13, vector 12, and the row "POST metadata" of section 11.
func TestPatchProperties(t *testing.T) {
	for _, row := range []struct {
		name, body, description string
		want                    map[string]string
	}{
		{"add and remove", `{"updated":{"c":"d","architecture":"x","os_hidden":"true","☐":""},"removed":["a","unknown"]}`, "d",
			map[string]string{"kernel_id": "k", "c": "d", "architecture": "x", "os_hidden": "true", "☐": "", "description": "shadow"}},
		{"write over", `{"updated":{"a":"c","os_hidden":true},"other":1}`, "d", map[string]string{"a": "c", "kernel_id": "k", "os_hidden": "true", "description": "shadow"}},
		{"nothing", `{"updated":{},"removed":[]}`, "d", before.Metadata},
		{"null", `{"updated":{},"removed":null}`, "d", before.Metadata},
		{"description", `{"updated":{"description":"e"}}`, "e", map[string]string{"a": "b", "kernel_id": "k"}},
		{"no description", `{"updated":{},"removed":["description"]}`, "", map[string]string{"a": "b", "kernel_id": "k"}},
		{"attributes are no properties", `{"updated":{},"removed":["name","owner","tags"]}`, "d", before.Metadata},
		{"kernel", `{"updated":{"ramdisk_id":"r"},"removed":["kernel_id"]}`, "d", map[string]string{"a": "b", "ramdisk_id": "r", "description": "shadow"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.daemon.Put(before, "")
			expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/properties/", row.body), 204, "")
			got, _, _ := w.daemon.Peek(id)
			if diff := cmp.Diff(row.want, got.Metadata); diff != "" || got.Description != row.description {
				t.Errorf("description %q, %s", got.Description, diff)
			}
			if got.Name != "n" || !got.Protected || got.Visibility != daemon.Shared || !got.UpdatedAt.After(got.CreatedAt) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestBadProperties(t *testing.T) {
	w := newWorld(t)
	id := w.daemon.Put(before, "")
	for _, body := range []string{`{"removed":["a"]}`, `{"updated":null}`, `{"updated":[]}`, `{"updated":"x"}`, `{"updated":{"a":1}}`, `{"updated":{"a":null}}`,
		`{"updated":{"a":true}}`, `{"updated":{"os_hidden":"x"}}`, `{"updated":{},"removed":"a"}`, `{"updated":{},"removed":[1]}`, `{"updated":{},"removed":[null]}`,
		`{"updated":{},"removed":{"a":1}}`, `{"updated":{"a":"b"},"removed":["a"]}`, `{"updated":{"name":"x"}}`, `{"updated":{"owner":"x"}}`, `{"updated":{"tags":"x"}}`,
		`{"updated":{"visibility":"public"}}`, `{"updated":{"file":"x"}}`, `{"updated":{"os_hash_value":"x"}}`, `{"updated":{"":"x"}}`,
		`{"updated":{"` + strings.Repeat("k", 256) + `":"x"}}`, `{"updated":{"a":"` + strings.Repeat("v", 65536) + `"}}`} {
		expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/properties/", body), 400, "")
	}
	expect(t, w.ajax("PATCH", "/api/glance/images/"+id+"/properties/", `{"updated":`+many(126)+`}`), 413, "exceeded")
	if got, _, _ := w.daemon.Peek(id); cmp.Diff(before.Metadata, got.Metadata) != "" {
		t.Errorf("%v", got.Metadata)
	}
}

// TestLongMetadata is four of the longest values: they are as much as an image may have.
func TestLongMetadata(t *testing.T) {
	w := newWorld(t)
	value := strings.Repeat("<", daemon.MaxMetadataValue)
	path := "/api/glance/images/" + w.active(daemon.Image{Metadata: map[string]string{"a": value, "b": value, "c": value}})
	expect(t, w.ajax("PATCH", path+"/properties/", `{"updated":{"d":"`+value+`"}}`), 204, "")
	expect(t, w.ajax("PATCH", path+"/properties/", `{"updated":{"e":""}}`), 413, "exceeded")
	expect(t, w.ajax("PATCH", path+"/", `{"e":""}`), 413, "exceeded")
	expect(t, w.ajax("PATCH", path+"/properties/", `{"updated":{"e":""},"removed":["d"]}`), 204, "")
}

// TestPatchesAtOnce loses none of the properties that are set at the same time (section 13, vector 14).
func TestPatchesAtOnce(t *testing.T) {
	w := newWorld(t)
	id := w.daemon.Put(before, "")
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			w.ajax("PATCH", "/api/glance/images/"+id+"/properties/", fmt.Sprintf(`{"updated":{"p%d":"v"}}`, n))
		})
	}
	wg.Wait()
	if got, _, _ := w.daemon.Peek(id); len(got.Metadata) != len(before.Metadata)+32 {
		t.Errorf("%d items", len(got.Metadata))
	}
}
