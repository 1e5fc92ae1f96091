package glance_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/api/glance"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

var before = daemon.Image{
	Name: "n", Description: "d", State: daemon.ImageActive, Visibility: daemon.Shared, Owner: "alice", Format: "qcow2", MinDiskGB: 1,
	Metadata: map[string]string{"a": "b", "tags": `["x","y"]`},
}

func TestPatch(t *testing.T) {
	for patch, change := range map[string]func(i *daemon.Image){
		`[]`: func(*daemon.Image) {},
		`[{"op":"replace","path":"/name","value":"m"},{"op":"replace","path":"/visibility","value":"private"},{"op":"add","path":"/protected","value":true},
			{"op":"replace","path":"/min_disk","value":3},{"op":"replace","path":"/min_ram","value":4},{"op":"add","path":"/os_hidden","value":true}]`: func(i *daemon.Image) {
			i.Name, i.Visibility, i.Protected, i.MinDiskGB, i.MinRAMMB, i.Metadata["os_hidden"] = "m", daemon.Private, true, 3, 4, "true"
		},
		`[{"op":"replace","path":"/name","value":null}]`:                                                 func(i *daemon.Image) { i.Name = "" },
		`[{"op":"add","path":"/a","value":"c"},{"op":"add","path":"/d~1e~0","value":"f"}]`:               func(i *daemon.Image) { i.Metadata["a"], i.Metadata["d/e~"] = "c", "f" },
		`[{"op":"add","path":"/c","value":"1"},{"op":"replace","path":"/c","value":"2"}]`:                func(i *daemon.Image) { i.Metadata["c"] = "2" },
		`[{"op":"add","path":"/c","value":"1"},{"op":"remove","path":"/c"},{"op":"remove","path":"/a"}]`: func(i *daemon.Image) { delete(i.Metadata, "a") },
		`[{"op":"replace","path":"/description","value":"e"}]`:                                           func(i *daemon.Image) { i.Description = "e" },
		`[{"op":"remove","path":"/description"}]`:                                                        func(i *daemon.Image) { i.Description = "" },
		`[{"op":"replace","path":"/tags","value":["z","z"]}]`:                                            func(i *daemon.Image) { i.Metadata["tags"] = `["z"]` },
		`[{"op":"replace","path":"/tags","value":[]}]`:                                                   func(i *daemon.Image) { delete(i.Metadata, "tags") },
		`[{"op":"add","path":"/tags/1","value":"z"},{"op":"add","path":"/tags/-","value":"w"}]`:          func(i *daemon.Image) { i.Metadata["tags"] = `["x","z","y","w"]` },
		`[{"op":"remove","path":"/tags/0"},{"op":"replace","path":"/tags/0","value":"z"}]`:               func(i *daemon.Image) { i.Metadata["tags"] = `["z"]` },
		`[{"op":"replace","path":"/owner","value":"alice"},{"op":"replace","path":"/disk_format","value":"qcow2"},{"op":"add","path":"/container_format","value":"bare"}]`: func(*daemon.Image) {
		},
	} {
		w := newWorld(t)
		id := w.daemon.Put(before, "")
		a := w.ask("PATCH", "/v2/images/"+id, patch)
		expect(t, a, 200, id)
		want := before
		want.ID, want.Metadata = id, map[string]string{"a": "b", "tags": `["x","y"]`}
		change(&want)
		got, _, _ := w.daemon.Peek(id)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(daemon.Image{}, "CreatedAt", "UpdatedAt"), cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
			t.Errorf("%s: %s", patch, diff)
		}
	}
}

func TestBadPatches(t *testing.T) {
	for status, patches := range map[int][]string{
		400: {"", "{", "{}", "null", `"x"`, `[1]`, `[null]`, `[{}]`, `[{"op":"add","path":"/a"}]`, `[{"op":"remove","path":"/a","value":"b"}]`, `[{"op":"test","path":"/a","value":"b"}]`,
			`[{"op":"move","path":"/a","from":"/c"}]`, `[{"op":1,"path":"/a"}]`, `[{"op":"add","path":"a","value":"b"}]`, `[{"op":"add","path":"/","value":"b"}]`,
			`[{"op":"add","path":"","value":"b"}]`, `[{"op":"add","path":"/a/b","value":"c"}]`, `[{"op":"add","path":"/a~2","value":"c"}]`, `[{"op":"add","path":"/tags/1/2","value":"c"}]`,
			`[{"op":"add","path":"/tags/","value":"c"}]`, `[{"op":"add","path":"/a","value":1}]`, `[{"op":"add","path":"/a","value":null}]`, `[{"op":"add","path":"/name","value":1}]`,
			`[{"op":"add","path":"/visibility","value":"x"}]`, `[{"op":"add","path":"/disk_format","value":"iso"}]`, `[{"op":"add","path":"/tags","value":"x"}]`,
			`[{"op":"add","path":"/tags/0","value":1}]`, `[{"op":"add","path":"/tags/0","value":""}]`, `[{"op":"add","op":"add","path":"/a","value":"b"}]`, `[] []`, `[],"x":[]`,
			`[]},"y":{"z":1`, `[]}{"patch":[]`},
		403: {`[{"op":"replace","path":"/status","value":"active"}]`, `[{"op":"replace","path":"/id","value":"x"}]`, `[{"op":"add","path":"/locations","value":[]}]`,
			`[{"op":"remove","path":"/name"}]`, `[{"op":"remove","path":"/tags"}]`, `[{"op":"replace","path":"/owner","value":"bob"}]`, `[{"op":"replace","path":"/disk_format","value":"raw"}]`,
			`[{"op":"replace","path":"/visibility","value":"public"}]`, `[{"op":"add","path":"/a","value":"c"},{"op":"remove","path":"/size"}]`},
		409: {`[{"op":"remove","path":"/none"}]`, `[{"op":"replace","path":"/none","value":"x"}]`, `[{"op":"add","path":"/tags/3","value":"x"}]`, `[{"op":"remove","path":"/tags/2"}]`,
			`[{"op":"remove","path":"/tags/-"}]`, `[{"op":"add","path":"/tags/-1","value":"x"}]`, `[{"op":"replace","path":"/name","value":"taken"}]`},
	} {
		for _, patch := range patches {
			w := newWorld(t)
			id := w.daemon.Put(before, "")
			w.active(daemon.Image{Name: "taken"})
			expect(t, w.ask("PATCH", "/v2/images/"+id, patch), status, "")
			if got, _, _ := w.daemon.Peek(id); !got.UpdatedAt.Equal(got.CreatedAt) {
				t.Errorf("%s changed the image", patch)
			}
			if t.Failed() {
				t.Fatal(patch)
			}
		}
	}
	w := newWorld(t)
	id := w.daemon.Put(before, "")
	for _, kind := range []string{"application/json", "application/json-patch+json", ""} {
		if a := w.ask("PATCH", "/v2/images/"+id, "[]", "Content-Type", kind); a.Status != 415 || a.Header.Get("Accept-Patch") != patchType {
			t.Errorf("%s: %d, Accept-Patch %q", kind, a.Status, a.Header.Get("Accept-Patch"))
		}
	}
	var ops []string
	for n := range 127 {
		ops = append(ops, fmt.Sprintf(`{"op":"add","path":"/p%d","value":"v"}`, n))
	}
	expect(t, w.ask("PATCH", "/v2/images/"+id, "["+strings.Join(ops, ",")+"]"), 413, "exceeded")
	expect(t, w.ask("PATCH", "/v2/images/"+id, "["+strings.Repeat(" ", 114688)+"]"), 413, "exceeds")
}

// TestLongMetadata is four of the longest values: they are as much as an image may have.
func TestLongMetadata(t *testing.T) {
	w := newWorld(t)
	value := strings.Repeat("<", daemon.MaxMetadataValue)
	id := w.active(daemon.Image{Metadata: map[string]string{"a": value, "b": value, "c": value}})
	expect(t, w.ask("PATCH", "/v2/images/"+id, `[{"op":"add","path":"/d","value":"`+value+`"}]`), 200, "")
	expect(t, w.ask("PATCH", "/v2/images/"+id, `[{"op":"add","path":"/e","value":""}]`), 413, "exceeded")
	expect(t, w.ask("PUT", "/v2/images/"+id+"/tags/t", ""), 413, "exceeded")
	expect(t, w.ask("PATCH", "/v2/images/"+id, `[{"op":"replace","path":"/d","value":""},{"op":"add","path":"/e","value":""}]`), 200, "")
}

// TestShadowed finds that an item named description, of another dialect, shows only as long as nothing was said here.
func TestShadowed(t *testing.T) {
	w := newWorld(t)
	id := w.active(daemon.Image{Metadata: map[string]string{"description": "old"}})
	expect(t, w.ask("GET", "/v2/images/"+id, ""), 200, `"description":"old"`)
	expect(t, w.ask("PATCH", "/v2/images/"+id, `[{"op":"add","path":"/description","value":"new"}]`), 200, `"description":"new"`)
	expect(t, w.ask("PATCH", "/v2/images/"+id, `[{"op":"remove","path":"/description"}]`), 200, "")
	if got, _, _ := w.daemon.Peek(id); got.Description != "" || len(got.Metadata) != 0 {
		t.Errorf("%q and %v", got.Description, got.Metadata)
	}
}

// dawdler lets others go first between reading an image and changing it.
type dawdler struct{ *daemontest.Images }

func (d dawdler) Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	i, err := d.Images.Image(ctx, c, id)
	for range 100 {
		runtime.Gosched()
	}
	return i, err
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	w.Family = glance.New(dawdler{w.daemon})
	id := w.active(daemon.Image{})
	var wg sync.WaitGroup
	for n := range 16 { // none is lost
		wg.Go(func() { w.ask("PUT", fmt.Sprintf("/v2/images/%s/tags/t%d", id, n), "") })
	}
	wg.Wait()
	if got := dialecttest.Decode[struct{ Tags []string }](t, w.ask("GET", "/v2/images/"+id, "")); len(got.Tags) != 16 {
		t.Errorf("%v", got.Tags)
	}
	expect(t, w.ask("PUT", "/v2/images/"+id+"/tags/t1", ""), 204, "")
	expect(t, w.ask("DELETE", "/v2/images/"+id+"/tags/t1", ""), 204, "")
	expect(t, w.ask("DELETE", "/v2/images/"+id+"/tags/t1", ""), 404, "no tag")
	expect(t, w.ask("PUT", "/v2/images/"+id+"/tags/"+strings.Repeat("t", 256), ""), 400, "255")
	for n := range 16 {
		w.ask("DELETE", fmt.Sprintf("/v2/images/%s/tags/t%d", id, n), "")
	}
	if got, _, _ := w.daemon.Peek(id); len(got.Metadata) != 0 {
		t.Errorf("%v", got.Metadata)
	}
}

// TestTooManyTags finds that an image gets 128 and no more, and that what another dialect wrote may become fewer, but not by
// a patch that has all of them read for each.
func TestTooManyTags(t *testing.T) {
	list := func(n int) string {
		var tags []string
		for i := range n {
			tags = append(tags, fmt.Sprintf(`"t%d"`, i))
		}
		return "[" + strings.Join(tags, ",") + "]"
	}
	w := newWorld(t)
	expect(t, w.ask("POST", "/v2/images", `{"tags":`+list(128)+`}`), 201, `"t127"`)
	expect(t, w.ask("POST", "/v2/images", `{"tags":`+list(129)+`}`), 413, "exceeded")
	full, over := "/v2/images/"+w.active(daemon.Image{Metadata: map[string]string{"tags": list(128)}}), "/v2/images/"+w.active(daemon.Image{Metadata: map[string]string{"tags": list(5000)}})
	expect(t, w.ask("PUT", full+"/tags/t0", ""), 204, "")
	expect(t, w.ask("PUT", full+"/tags/x", ""), 413, "exceeded")
	expect(t, w.ask("PATCH", full, `[{"op":"add","path":"/tags/-","value":"x"}]`), 413, "exceeded")
	expect(t, w.ask("PATCH", full, `[{"op":"remove","path":"/tags/0"},{"op":"add","path":"/tags/-","value":"x"}]`), 200, `"x"`)
	expect(t, w.ask("PATCH", over, `[{"op":"remove","path":"/tags/0"}]`), 409, "all together")
	expect(t, w.ask("PUT", over+"/tags/x", ""), 413, "exceeded")
	expect(t, w.ask("DELETE", over+"/tags/t4999", ""), 204, "")
	expect(t, w.ask("PATCH", over, `[{"op":"replace","path":"/tags","value":`+list(5000)+`}]`), 413, "exceeded")
	expect(t, w.ask("PATCH", over, `[{"op":"replace","path":"/tags","value":`+list(4998)+`}]`), 200, "")
	expect(t, w.ask("PATCH", over, `[{"op":"replace","path":"/tags","value":`+list(2)+`},{"op":"remove","path":"/tags/0"}]`), 200, `"tags":["t1"]`)

	op := `,{"op":"add","path":"/a","value":"b"}`
	expect(t, w.ask("PATCH", full, "["+strings.Repeat(op, 512)[1:]+"]"), 200, "")
	expect(t, w.ask("PATCH", full, "["+strings.Repeat(op, 513)[1:]+"]"), 400, "512")
}
