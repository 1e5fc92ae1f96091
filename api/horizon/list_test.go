package horizon_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

type listed struct {
	Items []struct{ ID, Name string }
	More  bool `json:"has_more_data"`
	Prev  bool `json:"has_prev_data"`
}

func (l listed) names() string {
	var out []string
	for _, i := range l.Items {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

func TestFilters(t *testing.T) {
	w := newWorld(t)
	w.active(daemon.Image{Name: "a", FileBytes: 10, MinDiskGB: 1, Format: "raw", Metadata: map[string]string{"k": "v", "tags": `["t","u"]`, "architecture": "arm"}})
	w.active(daemon.Image{Name: "b", FileBytes: 20, MinRAMMB: 512, Format: "qcow2", Visibility: daemon.Public, Owner: "bob", Description: "text"})
	w.active(daemon.Image{Name: "c", FileBytes: 30, Protected: true, Metadata: map[string]string{"k": "w", "os_hidden": "false"}})
	w.active(daemon.Image{Name: "h", Metadata: map[string]string{"os_hidden": "true"}})
	w.active(daemon.Image{Name: "strange", Owner: "bob"})
	w.active(daemon.Image{Name: "o", Owner: "bob", Visibility: daemon.Community})
	for query, want := range map[string]string{
		"":                               "c b a", // created_at, descending
		"sort_dir=asc":                   "a b c",
		"sort_key=name":                  "c b a",
		"sort_key=name&sort_dir=asc":     "a b c",
		"sort_key=size":                  "c b a",
		"sort_key=&sort_dir=":            "c b a",
		"name=b":                         "b",
		"name=B":                         "",
		"name=":                          "c b a",
		"name=a&name=b":                  "b",
		"status=active":                  "c b a",
		"status=ACTIVE":                  "c b a",
		"status=saving":                  "",
		"status=nonsense":                "",
		"owner=bob":                      "b",
		"property-owner_id=alice":        "c a",
		"visibility=public":              "b",
		"visibility=private":             "c a",
		"visibility=community":           "o",
		"is_public=true":                 "b",
		"is_public=False":                "c a",
		"is_public=1&visibility=private": "c a",
		"protected=True":                 "c",
		"protected=0":                    "b a",
		"protected=None":                 "b a",
		"protected=":                     "b a",
		"disk_format=raw":                "a",
		"disk_format=iso":                "",
		"container_format=bare":          "c b a",
		"container_format=ovf":           "",
		"size_min=20":                    "c b",
		"size_max=20":                    "b a",
		"size_min=11&size_max=20":        "b",
		"min_disk=1":                     "a",
		"min_ram=512":                    "b",
		"tag=u":                          "a",
		"tag=x":                          "",
		"description=text":               "b",
		"k=v":                            "a",
		"k=":                             "",
		"k=v;x":                          "",
		"resource_type=a;b&name=a":       "a",
		"architecture=arm":               "a",
		"resource_type=anything":         "c b a",
		"os_hidden=true":                 "h",
		"os_hidden=false":                "c b a",
		"paginate=false&name=a":          "a",
	} {
		t.Run(query, func(t *testing.T) {
			a := w.ajax("GET", "/api/glance/images/?"+query, "")
			if got := dialecttest.Decode[listed](t, a); got.names() != want || got.More || got.Prev {
				t.Errorf("%s, want %q and no flags", a.Body, want)
			}
		})
	}
	if a := w.ajax("GET", "/api/glance/images/?name=none", ""); a.Body != `{"items":[],"has_more_data":false,"has_prev_data":false}` {
		t.Errorf("an empty list is %s", a.Body)
	}
}

func TestBadQueries(t *testing.T) {
	w := newWorld(t)
	w.active(daemon.Image{Name: "a"})
	for _, query := range []string{"sort_key=password", "sort_dir=up", "paginate=yes", "protected=maybe", "is_public=2", "os_hidden=x", "visibility=all", "size_min=-1",
		"size_min=1.5", "size_max=x", "size_max=99999999999999999999", "min_disk=-1", "min_ram=x", "marker=" + unknownID, "marker=x", "status=none&marker=" + unknownID, "a=%zz", "a=%ff", "%ff=a", "a=%00"} {
		expect(t, w.ajax("GET", "/api/glance/images/?"+query, ""), 400, "")
	}
	expect(t, w.ajax("GET", "/api/glance/images/?visibility=all", ""), 400, "invalid visibility option: all")
}

// TestPaging walks through 45 images by their flags (section 13, vector 12), with others among them that no list shows.
func TestPaging(t *testing.T) {
	w := newWorld(t)
	var want []string
	for n := range 45 {
		want = append(want, w.active(daemon.Image{Name: fmt.Sprintf("i%02d", n)}))
		if n >= 10 && n < 35 {
			w.active(daemon.Image{Name: fmt.Sprintf("h%02d", n), Metadata: map[string]string{"os_hidden": "true"}})
		}
	}
	slices.Reverse(want)
	var got []string
	sizes, marker := []int{20, 20, 5}, ""
	for n, size := range sizes {
		page := dialecttest.Decode[listed](t, w.ajax("GET", "/api/glance/images/?paginate=true&sort_dir=desc&sort_key=created_at&marker="+url.QueryEscape(marker), ""))
		if len(page.Items) != size || page.More != (n < 2) || page.Prev != (n > 0) {
			t.Errorf("page %d: %d items, more %v, previous %v", n, len(page.Items), page.More, page.Prev)
		}
		for _, i := range page.Items {
			got = append(got, i.ID)
			marker = i.ID
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	last := dialecttest.Decode[listed](t, w.ajax("GET", "/api/glance/images/?paginate=True&marker="+marker, ""))
	if len(last.Items) != 0 || last.More || !last.Prev {
		t.Errorf("after the last: %+v", last)
	}
	all := dialecttest.Decode[listed](t, w.ajax("GET", "/api/glance/images/", ""))
	if len(all.Items) != 45 || all.More || all.Prev {
		t.Errorf("without pages: %d, %v, %v", len(all.Items), all.More, all.Prev)
	}
}

// TestExactPages finds no flag for a page that just holds everything, and a thousand at most without pages.
func TestExactPages(t *testing.T) {
	w := newWorld(t)
	for n := range 1001 {
		if n == 20 {
			if page := dialecttest.Decode[listed](t, w.ajax("GET", "/api/glance/images/?paginate=1", "")); len(page.Items) != 20 || page.More {
				t.Errorf("20 of 20: %d, more %v", len(page.Items), page.More)
			}
		}
		w.active(daemon.Image{Name: fmt.Sprint(n)})
	}
	if all := dialecttest.Decode[listed](t, w.ajax("GET", "/api/glance/images/?sort_dir=asc", "")); len(all.Items) != 1000 || all.More || all.Items[999].Name != "999" {
		t.Errorf("%d of 1001, more %v", len(all.Items), all.More)
	}
}
