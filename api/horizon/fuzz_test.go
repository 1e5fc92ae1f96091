package horizon_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// sound checks what must be true of any reply.
func sound(t *testing.T, status int, body string) {
	t.Helper()
	if status >= 500 || status == 0 {
		t.Fatalf("%d %s", status, body)
	}
	if body != "" && !json.Valid([]byte(body)) {
		t.Fatalf("no JSON: %s", body)
	}
	if status >= 400 && status != 405 && !strings.HasPrefix(body, `"`) {
		t.Fatalf("no bare string: %s", body)
	}
}

func FuzzCreate(f *testing.F) {
	f.Add(`{"name":"n","description":"d","min_disk":"1","visibility":"shared","os_hidden":"true","a":"b"}`)
	f.Add(`{"source_type":"url","image_url":"https://x.example/","import_data":true}`)
	f.Add(`{"source_type":"file-direct","data":"f","protected":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		a := w.ajax("PUT", "/api/glance/images/", body)
		sound(t, a.Status, a.Body)
		if (a.Status == 201) != (len(w.daemon.Living()) == 1) {
			t.Fatalf("%d, and %d images", a.Status, len(w.daemon.Living()))
		}
		id := w.daemon.Put(before, "")
		a = w.ajax("PATCH", "/api/glance/images/"+id+"/", body)
		sound(t, a.Status, a.Body)
	})
}

func FuzzProperties(f *testing.F) {
	f.Add(`{"updated":{"a":"b","description":"c","os_hidden":true},"removed":["d",null]}`)
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		id := w.daemon.Put(before, "")
		a := w.ajax("PATCH", "/api/glance/images/"+id+"/properties/", body)
		sound(t, a.Status, a.Body)
		if i, _, _ := w.daemon.Peek(id); i.Name != before.Name || i.Visibility != before.Visibility {
			t.Fatalf("properties changed an attribute: %+v", i)
		}
	})
}

func FuzzForm(f *testing.F) {
	f.Add(form("name", "n", "a", "b", "data", "bytes"))
	f.Add(form("$$originalJSON", `{"name":"n"}`, "data", "bytes", "late", "x"))
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		a := w.post(body)
		sound(t, a.Status, a.Body)
		if (a.Status == 201) != (len(w.daemon.Living()) == 1) && !strings.Contains(a.Body, `"killed"`) {
			t.Fatalf("%d, and %d images", a.Status, len(w.daemon.Living()))
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("paginate=true&sort_key=name&sort_dir=asc&status=active&tag=x&k=v&size_min=1&os_hidden=1")
	f.Add("marker=x&is_public=None&property-owner_id=a&min_ram=1&visibility=public")
	f.Fuzz(func(t *testing.T, query string) {
		w := newWorld(t)
		w.active(daemon.Image{Name: "n", Metadata: map[string]string{"k": "v"}})
		for _, path := range []string{"/api/glance/images/", "/api/glance/metadefs/namespaces/"} {
			r := httptest.NewRequest("GET", path, nil)
			r.URL.RawQuery = query
			r.Header.Set("X-Auth-Token", "alice")
			r.Header.Set("X-Requested-With", "XMLHttpRequest")
			a := w.Do(r)
			sound(t, a.Status, a.Body)
		}
	})
}
