package glance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

type listed struct {
	Images      []struct{ ID, Name string }
	First, Next string
	Schema      string
}

func (l listed) names() string {
	var out []string
	for _, i := range l.Images {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

func TestFilters(t *testing.T) {
	w := newWorld(t)
	w.active(daemon.Image{Name: "a", FileBytes: 10, MinDiskGB: 1, Format: "raw", Metadata: map[string]string{"k": "v", "tags": `["t","u"]`}})
	id := w.active(daemon.Image{Name: "b", FileBytes: 20, MinRAMMB: 512, Format: "qcow2", Visibility: daemon.Public, Owner: "bob", Digest: "sha256:ab"})
	w.active(daemon.Image{Name: "c", FileBytes: 30, Protected: true, State: daemon.ImagePending, Metadata: map[string]string{"tags": `["t"]`}})
	w.active(daemon.Image{Name: "h", Metadata: map[string]string{"os_hidden": "true"}})
	w.active(daemon.Image{Name: "strange", Owner: "bob"})
	w.active(daemon.Image{Name: "o", Owner: "bob", Visibility: daemon.Community})
	w.active(daemon.Image{Name: "e", State: daemon.ImageError})
	for query, want := range map[string]string{
		"": "c b a", "sort_dir=asc": "a b c", "sort_key=name&sort_dir=asc": "a b c", "sort=name:asc": "a b c", "sort=name": "c b a", "sort=size:asc,name:desc": "a b c",
		"sort_key=name&sort_key=id&sort_dir=asc&sort_dir=desc": "a b c",
		"name=b": "b", "name=in:a,b": "b a", "id=" + id: "b", "status=active": "b a", "status=queued": "c", "status=in:queued,active": "c b a", "status=killed": "e", "status=x": "",
		"status=pending_delete": "", "owner=bob": "b", "visibility=public": "b", "visibility=all": "c b a", "visibility=community": "o", "visibility=shared": "", "protected=true": "c", "protected=False": "b a", "os_hidden=True": "h",
		"os_hidden=false": "c b a", "tag=t": "c a", "tag=t&tag=u": "a", "size_min=20": "c b", "size_max=20": "b a", "min_disk=1": "a", "min_ram=512": "b", "disk_format=raw": "a",
		"disk_format=in:raw,qcow2": "b a", "container_format=bare": "c b a", "container_format=ovf": "", "k=v": "a", "k=v;x&name=a": "", "name=a&x;y=": "", "member_status=all": "c b a", "os_hash_value=ab": "b", "checksum=x": "",
		"limit=0": "", "created_at=gte:2026-01-01T00:00:02Z": "c b", "created_at=lt:2026-01-01T00:00:02": "a", "updated_at=2026-01-01T00:00:02Z": "b", "updated_at=neq:2026-01-01T00:00:02Z": "c a",
		"updated_at=eq:2026-01-01T01:00:02%2B01:00": "b",
	} {
		a := w.ask("GET", "/v2/images?"+query, "")
		if got := dialecttest.Decode[listed](t, a); a.Status != 200 || got.names() != want || got.Next != "" || got.Schema != "/v2/schemas/images" {
			t.Errorf("%s: %s, want %q", query, a.Body, want)
		}
	}
	for _, query := range []string{"limit=-1", "limit=x", "limit=", "marker=x", "marker=" + unknownID, "checksum=x&marker=" + unknownID, "limit=0&marker=" + unknownID, "sort=password", "sort=name:up", "sort_key=x", "sort_dir=up", "sort=name&sort_key=name",
		"visibility=x", "protected=x", "os_hidden=", "size_min=x", "size_max=-1", "min_disk=x", "min_ram=99999999999", "created_at=x", "updated_at=gte:", "a=%zz", "a=%ff", "a=%00"} {
		expect(t, w.ask("GET", "/v2/images?"+query, ""), 400, "")
	}
}

// TestPaging follows next to the end, with hidden images between, and the other parameters kept.
func TestPaging(t *testing.T) {
	w := newWorld(t)
	var want []string
	for n := range 7 {
		want = append(want, w.active(daemon.Image{Metadata: map[string]string{"k": "a b&c;"}}))
		w.active(daemon.Image{Metadata: map[string]string{"k": "a b&c;", "os_hidden": "true"}})
		w.active(daemon.Image{Name: fmt.Sprint(n)})
	}
	slices.Reverse(want)
	var got []string
	pages := 0
	for next := "/v2/images?limit=3&k=a+b%26c;"; next != ""; pages++ {
		page := dialecttest.Decode[listed](t, w.ask("GET", next, ""))
		for _, i := range page.Images {
			got = append(got, i.ID)
		}
		if page.First != "/v2/images?k=a+b%26c%3B&limit=3" {
			t.Errorf("first is %s", page.First)
		}
		if next = page.Next; next != "" && next != "/v2/images?k=a+b%26c%3B&limit=3&marker="+got[len(got)-1] {
			t.Errorf("next is %s", next)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("%d pages: %s", pages, diff)
	}
	// Each image is deleted once its page was read: next goes on where that one stood.
	for _, sort := range []string{"", "&sort=name:asc", "&sort=size"} {
		w := newWorld(t)
		for n := range 7 {
			w.active(daemon.Image{Name: fmt.Sprint(n), FileBytes: int64(n)})
		}
		got := 0
		for next := "/v2/images?limit=3" + sort; next != ""; {
			a := w.ask("GET", next, "")
			expect(t, a, 200, "")
			page := dialecttest.Decode[listed](t, a)
			for _, i := range page.Images {
				expect(t, w.ask("DELETE", "/v2/images/"+i.ID, ""), 204, "")
			}
			got, next = got+len(page.Images), page.Next
		}
		if got != 7 {
			t.Errorf("%d of 7 images are listed, sorted by %q", got, sort)
		}
	}
	for n := range 30 {
		w.active(daemon.Image{Name: fmt.Sprint("more", n)})
	}
	if page := dialecttest.Decode[listed](t, w.ask("GET", "/v2/images", "")); len(page.Images) != 25 || page.Next == "" {
		t.Errorf("%d by default, next %q", len(page.Images), page.Next)
	}
	if page := dialecttest.Decode[listed](t, w.ask("GET", "/v2/images?limit=99999", "")); len(page.Images) != 44 || page.Next != "" {
		t.Errorf("%d at most, next %q", len(page.Images), page.Next)
	}
}
