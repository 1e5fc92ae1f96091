package nova_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// idsOf are the images of a list, in its order, and its link to the next page.
func idsOf(t *testing.T, a answer) (ids []string, next string) {
	t.Helper()
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	o := object(t, a)
	for _, img := range o["images"].([]any) {
		ids = append(ids, img.(map[string]any)["id"].(string))
	}
	if links, ok := o["images_links"].([]any); ok {
		if len(links) != 1 || links[0].(map[string]any)["rel"] != "next" || len(links[0].(map[string]any)) != 2 {
			t.Errorf("images_links %v", links)
		}
		next = links[0].(map[string]any)["href"].(string)
	}
	return ids, next
}

func TestFilters(t *testing.T) {
	plain := []string{active, full, public, guarded, copying, queued}
	deleted := []string{tombstone, leaving}
	for _, row := range []struct {
		query string
		want  []string
	}{
		{"", plain},
		{"?name=guarded", []string{guarded}},
		{"?name=GUARDED", nil},
		{"?name=", []string{queued}},
		{"?name=full&name=guarded", []string{guarded}},
		{"?status=active", []string{active, full, public, guarded}},
		{"?status=Saving", []string{copying, queued}},
		{"?status=DELETED", deleted},
		{"?status=error", []string{failed}},
		{"?status=UNKNOWN", nil},
		{"?status=nonsense", nil},
		{"?status=", nil},
		{"?server=" + capsule, []string{guarded}},
		{"?server=http://example.com/v2.1/servers/" + capsule, []string{guarded}},
		{"?server=" + unknown, nil},
		{"?server=", nil},
		{"?server=http://example.com/servers/", nil},
		{"?type=snapshot", []string{guarded}},
		{"?type=backup", nil},
		{"?type=ALL", plain},
		{"?minRam=512", []string{guarded}},
		{"?minRam=511", nil},
		{"?minDisk=10", []string{guarded}},
		{"?minDisk=-1", nil},
		{"?minDisk=99999999999999999999", nil},
		{"?property-kernel_id=nokernel", []string{active}},
		{"?property-kernel_id=other", nil},
		{"?property-Kernel_id=nokernel", nil},
		{"?property-image_type=backup&type=snapshot", nil},
		{"?property-image_type=snapshot&type=snapshot", []string{guarded}},
		{"?sort_key=name&sort_dir=asc&colour=red&deleted=true", plain},
		{"?offset=3&page_size=1", plain},
		{"?colour=red;sort=x&name=guarded", []string{guarded}},
		{"?name=guarded;x", nil},
		{"?changes-since=2011-01-01T01:02:03.5Z", []string{active, full, public, guarded, failed, tombstone, leaving, copying, queued}},
		{"?changes-since=2011-01-01T01:02:03Z&status=deleted", deleted},
		{"?changes-since=2011-01-01T01:02:03.500001Z", nil},
		{"?changes-since=2099-01-01T00:00:00", nil},
		{"?limit=99999999999999999999", plain},
	} {
		for _, list := range []string{"/v2.1/images", "/v2.1/images/detail", "/v2/" + project + "/images", "/v2/images/detail"} {
			ids, next := idsOf(t, start(t).call(t, "GET", list+row.query, ""))
			if !slices.Equal(ids, row.want) || next != "" {
				t.Errorf("%s%s: %v (next %q), want %v", list, row.query, ids, next, row.want)
			}
		}
	}
}

func TestBadParameters(t *testing.T) {
	for query, want := range map[string][2]int{ // in version 2.1 and 2
		"limit=0": {400, 200}, "limit=-1": {400, 400}, "limit=abc": {400, 400}, "limit=": {400, 400}, "limit=1.5": {400, 400}, "limit=%2B1": {400, 400},
		"limit=x&limit=1": {400, 400}, "limit=1&limit=x": {400, 400}, "limit=0&limit=1": {400, 200}, "limit=٣": {400, 400},
		"offset=-1": {400, 400}, "offset=x&offset=1": {400, 400}, "offset=0": {200, 200}, "page_size=x": {400, 400}, "page_size=": {400, 400},
		"minRam=x": {400, 400}, "minRam=": {400, 400}, "minDisk=1.0": {400, 400}, "minDisk=-": {400, 400}, "minRam=x&minRam=1": {200, 200},
		"marker=" + unknown: {400, 400}, "marker=nonsense": {400, 400}, "status=none&marker=" + unknown: {400, 400}, "marker=" + hidden: {400, 400},
		"changes-since=": {400, 400}, "changes-since=yesterday": {400, 400}, "changes-since=2011-13-01": {400, 400},
		"changes-since=2011-01-01T25:00:00Z": {400, 400}, "changes-since=2011-01-01T00:00.5Z": {400, 400}, "a=1;b=2": {200, 200}, "limit=1;": {400, 400}, "%ff=1": {400, 400},
	} {
		for i, list := range []string{"/v2.1/images", "/v2/images"} {
			for _, path := range []string{list, list + "/detail"} {
				a := start(t).call(t, "GET", path+"?"+query, "")
				if a.status != want[i] {
					t.Errorf("%s?%s: %d %s, want %d", path, query, a.status, a.body, want[i])
				} else if a.status == 400 {
					a.fault(t)
				}
			}
		}
	}
}

func TestChangesSince(t *testing.T) {
	h := start(t)
	for value, want := range map[string]string{
		"2011-01-24T17:08Z":                "2011-01-24T17:08:00Z",
		"2011-01-24T17:08:09":              "2011-01-24T17:08:09Z",
		"2011-01-24T17:08:09.123456789123": "2011-01-24T17:08:09.123456789Z",
		"2011-01-24T17:08:09+02:00":        "2011-01-24T15:08:09Z",
		"2011-01-24T17:08:09-0230":         "2011-01-24T19:38:09Z",
		"2011-01-24T17:08:09+02":           "2011-01-24T15:08:09Z",
		"2011-01-24 17:08:09":              "2011-01-24T17:08:09Z",
		"2011-01-24":                       "2011-01-24T00:00:00Z",
		"0001-01-01T00:00:00Z":             "0001-01-01T00:00:00.000000001Z",
	} {
		h.call(t, "GET", "/v2.1/images?changes-since="+url.QueryEscape(value), "")
		if len(h.asked) != 1 || h.asked[0].ChangedSince.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%s asks for %+v, want %s", value, h.asked, want)
		}
		h.asked = nil
	}
}

// Pages: every image once, the links keep every other parameter, and one page more than there are images when the last
// is full (images contract, vector 7).
func TestPages(t *testing.T) {
	for _, v := range both {
		for _, path := range []string{"/images", "/images/detail"} {
			h := start(t)
			clear(h.images)
			for i := range 3 {
				h.add(daemon.Image{ID: fmt.Sprintf("00000000-0000-4000-8000-00000000010%d", i), Name: "a b"})
			}
			target, pages, seen := v.prefix+path+"?name=a+b&colour=%22red%22&limit=9&limit=1", 0, []string{}
			for target != "" {
				pages++
				ids, next := idsOf(t, h.call(t, "GET", target, ""))
				seen = append(seen, ids...)
				if len(ids) == 1 {
					want := base + v.prefix + path + "?colour=%22red%22&limit=1&marker=" + ids[0] + "&name=a+b"
					if next != want {
						t.Errorf("next %q, want %q", next, want)
					}
				} else if len(ids) > 0 || next != "" {
					t.Errorf("page %d: %v, next %q", pages, ids, next)
				}
				target = strings.TrimPrefix(next, base)
			}
			if pages != 4 || len(seen) != 3 || !slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }) {
				t.Errorf("%d pages, %v", pages, seen)
			}
		}
	}
}

// No page is longer than a thousand images, whatever is asked for, and a full one has a link.
func TestLongestPage(t *testing.T) {
	h := start(t)
	clear(h.images)
	for i := range 1001 {
		h.add(daemon.Image{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)})
	}
	for _, query := range []string{"", "?limit=1000", "?limit=5000"} {
		ids, next := idsOf(t, h.call(t, "GET", "/v2.1/images"+query, ""))
		if len(ids) != 1000 || next == "" {
			t.Errorf("%q: %d images, next %q", query, len(ids), next)
		}
	}
	if ids, _ := idsOf(t, h.call(t, "GET", "/v2/images?limit=0", "")); len(ids) != 1000 {
		t.Errorf("limit=0: %d images", len(ids))
	}
}
