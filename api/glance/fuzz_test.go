package glance_test

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

// sound checks what must be true of any reply.
func sound(t *testing.T, a dialecttest.Answer) {
	t.Helper()
	if a.Status >= 500 || a.Status == 0 || !json.Valid([]byte(a.Body)) {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
}

func FuzzCreate(f *testing.F) {
	f.Add(`{"name":"n","tags":["a"],"os_hidden":true,"min_disk":1,"visibility":"shared","a":"b","disk_format":null}`)
	f.Add(`{"namespace":"N","properties":{"a":{"title":"t","type":"string"}},"objects":[],"resource_type_associations":[{"name":"R"}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		a := w.ask("POST", "/v2/images", body)
		sound(t, a)
		if (a.Status == 201) != (len(w.daemon.Living()) == 1) {
			t.Fatalf("%d, and %d images", a.Status, len(w.daemon.Living()))
		}
	})
}

func FuzzPatch(f *testing.F) {
	f.Add(`[{"op":"add","path":"/a~1b","value":"c"},{"op":"remove","path":"/a"},{"op":"replace","path":"/tags/0","value":"z"}]`)
	f.Add(`[{"op":"replace","path":"/name","value":null},{"op":"add","path":"/tags/-","value":"z"},{"op":"replace","path":"/min_ram","value":1}]`)
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		id := w.daemon.Put(before, "")
		sound(t, w.ask("PATCH", "/v2/images/"+id, body))
		got, _, _ := w.daemon.Peek(id)
		if got.Owner != "alice" || got.Format != "qcow2" || got.State != daemon.ImageActive || got.Visibility == daemon.Public {
			t.Fatalf("%+v", got)
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("limit=1&sort=name:asc,id:desc&tag=a&status=in:active,queued&created_at=gte:2026-01-01T00:00:00Z&k=v")
	f.Add("marker=x&sort_key=size&sort_dir=asc&visibility=all&os_hidden=true&resource_types=R")
	f.Fuzz(func(t *testing.T, query string) {
		w := newWorld(t)
		w.active(daemon.Image{Metadata: map[string]string{"k": "v"}})
		for _, path := range []string{"/image/v2/images", "/image/v2/metadefs/namespaces"} {
			r := httptest.NewRequest("GET", path, nil)
			r.URL.RawQuery = query
			r.Header.Set("X-Auth-Token", "alice")
			sound(t, w.Do(r))
		}
	})
}
