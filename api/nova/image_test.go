package nova_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
)

// object reads a body as JSON.
func object(t *testing.T, a answer) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(a.body), &o); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return o
}

func imageOf(t *testing.T, a answer) map[string]any {
	t.Helper()
	img, ok := object(t, a)["image"].(map[string]any)
	if !ok || len(object(t, a)) != 1 {
		t.Fatalf("no image: %s", a.body)
	}
	return img
}

// Clients check that an image has these members and no other.
var required = []string{"OS-EXT-IMG-SIZE:size", "created", "id", "links", "metadata", "minDisk", "minRam", "name", "progress", "status", "updated"}

// An image as it moves from state to state, in every variant.
func TestStatus(t *testing.T) {
	for id, want := range map[string]struct {
		status   string
		progress float64
		members  []string
	}{
		active:  {"ACTIVE", 100, []string{"OS-DCF:diskConfig"}},
		queued:  {"SAVING", 25, nil},
		copying: {"SAVING", 50, nil},
		leaving: {"DELETED", 0, nil},
		failed:  {"ERROR", 0, nil},
		guarded: {"ACTIVE", 100, []string{"OS-DCF:diskConfig", "server"}},
		public:  {"ACTIVE", 100, nil},
		unknown: {"UNKNOWN", 0, nil},
	} {
		for _, v := range both {
			h := start(t)
			h.add(daemon.Image{ID: unknown, State: "LIMBO"})
			img := imageOf(t, h.call(t, "GET", v.prefix+"/images/"+id, ""))
			if img["status"] != want.status || img["progress"] != want.progress {
				t.Errorf("%s: %v %v, want %v", id, img["status"], img["progress"], want)
			}
			members := slices.Sorted(maps.Keys(img))
			if diff := cmp.Diff(slices.Sorted(slices.Values(append(want.members, required...))), members); diff != "" {
				t.Errorf("%s has other members: %s", id, diff)
			}
		}
	}
}

// The walk of one image from its first byte to its end (images contract, vector 13).
func TestWalk(t *testing.T) {
	for _, v := range both {
		h := start(t)
		path := v.prefix + "/images/" + copying
		status := func() any { return imageOf(t, h.call(t, "GET", path, ""))["status"] }
		if got := status(); got != "SAVING" {
			t.Errorf("while it is copied: %v", got)
		}
		h.images[copying].State = daemon.ImageActive
		if got := status(); got != "ACTIVE" {
			t.Errorf("then: %v", got)
		}
		if a := h.call(t, "DELETE", path, ""); a.status != 204 || status() != "DELETED" {
			t.Errorf("deletion: %d, then %v", a.status, status())
		}
		if a := h.call(t, "DELETE", path, ""); a.status != 403 {
			t.Errorf("second deletion: %d", a.status)
		}
		h.images[copying].State = daemon.ImageDeleted
		if a := h.call(t, "GET", path, ""); a.status != 404 {
			t.Errorf("once it is purged: %d", a.status)
		}
	}
}

func TestDiskConfig(t *testing.T) {
	h := start(t)
	for value, want := range map[string]string{"1": "AUTO", "t": "AUTO", "True": "AUTO", "ON": "AUTO", "y": "AUTO", "yes": "AUTO", "0": "MANUAL",
		"false": "MANUAL", "": "MANUAL", "2": "MANUAL"} {
		h.images[active].Metadata = map[string]string{"auto_disk_config": value}
		if got := imageOf(t, h.call(t, "GET", "/v2.1/images/"+active, ""))["OS-DCF:diskConfig"]; got != want {
			t.Errorf("%q is %v", value, got)
		}
	}
}

// The links of an image follow the address that it was asked under.
func TestLinks(t *testing.T) {
	type links = []any
	link := func(rel, href string) map[string]any { return map[string]any{"rel": rel, "href": href} }
	for _, row := range []struct{ prefix, self, bookmark string }{
		{"/v2.1", "/v2.1", ""},
		{"/v2.1/" + project, "/v2.1/" + project, "/" + project},
		{"/v2", "/v2", ""},
		{"/v2/" + project, "/v2/" + project, "/" + project},
		{"/compute/v2.1/" + project, "/compute/v2.1/" + project, "/compute/" + project},
	} {
		h := start(t)
		alternate := link("alternate", base+"/image/images/"+guarded)
		alternate["type"] = "application/vnd.openstack.image"
		want := links{link("self", base+row.self+"/images/"+guarded), link("bookmark", base+row.bookmark+"/images/"+guarded), alternate}
		server := map[string]any{"id": capsule, "links": links{link("self", base+row.self+"/servers/"+capsule), link("bookmark", base+row.bookmark+"/servers/"+capsule)}}
		img := imageOf(t, h.call(t, "GET", row.prefix+"/images/"+guarded, ""))
		if diff := cmp.Diff(want, img["links"]); diff != "" {
			t.Errorf("%s: %s", row.prefix, diff)
		}
		if diff := cmp.Diff(server, img["server"]); diff != "" {
			t.Errorf("%s: %s", row.prefix, diff)
		}
		all := object(t, h.call(t, "GET", row.prefix+"/images?name=guarded", ""))
		if diff := cmp.Diff(map[string]any{"images": links{map[string]any{"id": guarded, "name": "guarded", "links": want}}}, all); diff != "" {
			t.Errorf("%s: %s", row.prefix, diff)
		}
	}
}

// An image without a name has null for one, and times are in UTC to the second.
func TestNullAndTimes(t *testing.T) {
	h := start(t)
	h.images[queued].CreatedAt = epoch.In(time.FixedZone("CET", 3600))
	img := imageOf(t, h.call(t, "GET", "/v2.1/images/"+queued, ""))
	if name, ok := img["name"]; name != nil || !ok || img["created"] != "2011-01-01T01:02:03Z" || img["updated"] != "2011-01-01T01:02:03Z" {
		t.Errorf("%v", img)
	}
}

// Merging, replacing and single items, as the samples of the contract have them (images contract, vector 1).
func TestMetadata(t *testing.T) {
	for _, v := range both {
		h := start(t)
		path := v.prefix + "/images/" + active + "/metadata"
		for _, step := range []struct {
			method, path, body string
			want               string
		}{
			{"GET", path, "", `{"metadata":{"architecture":"x86_64","auto_disk_config":"True","kernel_id":"nokernel","ramdisk_id":"nokernel"}}`},
			{"POST", path, `{"metadata":{"kernel_id":"False","Label":"UpdatedImage"}}`, `{"metadata":{"Label":"UpdatedImage","architecture":"x86_64","auto_disk_config":"True","kernel_id":"False","ramdisk_id":"nokernel"}}`},
			{"PUT", path, `{"metadata":{"auto_disk_config":"True","Label":"Changed"}}`, `{"metadata":{"Label":"Changed","auto_disk_config":"True"}}`},
			{"PUT", path + "/auto_disk_config", `{"meta":{"auto_disk_config":"False"}}`, `{"meta":{"auto_disk_config":"False"}}`},
			{"GET", path + "/auto_disk_config", "", `{"meta":{"auto_disk_config":"False"}}`},
			{"DELETE", path + "/Label", "", ""},
			{"GET", path, "", `{"metadata":{"auto_disk_config":"False"}}`},
			{"PUT", path, `{"metadata":{}}`, `{"metadata":{}}`},
			{"GET", path, "", `{"metadata":{}}`},
		} {
			if a := h.call(t, step.method, step.path, step.body); a.body != step.want {
				t.Errorf("%s %s: %d %s, want %s", step.method, step.path, a.status, a.body, step.want)
			}
		}
	}
}

// What other dialects wrote is shown as it is, though it could not be written here.
func TestForeignItems(t *testing.T) {
	h := start(t)
	items := map[string]string{"☐/\"<": strings.Repeat("é", 300) + "\u2028\n", "a/b": ""}
	h.images[active].Metadata = items
	for _, path := range []string{"/v2.1/images/" + active + "/metadata", "/v2/images/" + active + "/metadata"} {
		var got struct{ Metadata map[string]string }
		if err := json.Unmarshal([]byte(h.call(t, "GET", path, "").body), &got); err != nil || !maps.Equal(got.Metadata, items) {
			t.Errorf("%v: %v", err, got)
		}
		if a := h.call(t, "GET", path+"/a%2Fb", ""); a.status != 200 || a.body != `{"meta":{"a/b":""}}` {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

// Many merges at once lose nothing (images contract, vector 14).
func TestConcurrentMerges(t *testing.T) {
	h := start(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			key := string(rune('a' + i))
			if a := h.call(t, "POST", "/v2.1/images/"+active+"/metadata", `{"metadata":{"`+key+`":"v"}}`); a.status != 200 {
				t.Errorf("%s: %d", key, a.status)
			}
		})
	}
	wg.Wait()
	if n := len(h.images[active].Metadata); n != 24 {
		t.Errorf("%d items", n)
	}
}
