package horizon_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

var admin = daemon.Caller{GUID: "admin", Roles: []string{daemon.RoleAdmin}}

func (w *world) define(m daemon.Metadef) {
	w.T.Helper()
	if err := w.daemon.PutMetadef(w.T.Context(), admin, m); err != nil {
		w.T.Fatal(err)
	}
}

type catalogue struct {
	Items []struct{ Namespace string }
	More  bool `json:"has_more_data"`
	Prev  bool `json:"has_prev_data"`
}

func TestEmptyCatalogue(t *testing.T) {
	w := newWorld(t)
	if a := w.ajax("GET", "/api/glance/metadefs/namespaces/", ""); a.Body != `{"items":[],"has_more_data":false,"has_prev_data":false}` {
		t.Error(a.Body)
	}
	if a := w.ajax("GET", "/api/glance/metadefs/resourcetypes/", ""); a.Body != `{"items":[]}` {
		t.Error(a.Body)
	}
}

// TestNamespace compares the whole of what is shown of one, with and without a resource type (section 6.4).
func TestNamespace(t *testing.T) {
	w := newWorld(t)
	w.define(daemon.Metadef{
		Namespace: "OS::A", DisplayName: "A", Description: "d", Visibility: daemon.Public, Protected: true,
		ResourceTypes: []daemon.MetadefResource{{Name: "OS::Glance::Image", Prefix: "hw_"}, {Name: "OS::Cinder::Volume", Target: "image"}},
		Properties:    json.RawMessage(`{"a":{"title":"T","type":"string","enum":["x"]}}`),
		Objects:       json.RawMessage(`[{"name":"o","properties":{"b":{"title":"B","type":"integer"}}},{"name":"p"}]`),
	})
	w.define(daemon.Metadef{Namespace: "OS::Secret", Visibility: daemon.Private, ResourceTypes: []daemon.MetadefResource{{Name: "OS::Hidden"}}})
	const at = "2026-01-01T00:00:01Z"
	association := func(name, key, value string) any {
		return map[string]any{"name": name, key: value, "created_at": at, "updated_at": at}
	}
	want := map[string]any{
		"namespace": "OS::A", "display_name": "A", "description": "d", "visibility": "public", "protected": true, "owner": "admin", "created_at": at, "updated_at": at,
		"resource_type_associations": []any{association("OS::Glance::Image", "prefix", "hw_"), association("OS::Cinder::Volume", "properties_target", "image")},
		"properties":                 map[string]any{"a": map[string]any{"title": "T", "type": "string", "enum": []any{"x"}}},
		"objects": []any{map[string]any{"name": "o", "properties": map[string]any{"b": map[string]any{"title": "B", "type": "integer"}}},
			map[string]any{"name": "p"}},
	}
	get := func(query string) any {
		return dialecttest.Decode[struct{ Items any }](t, w.ajax("GET", "/api/glance/metadefs/namespaces/"+query, "")).Items
	}
	if diff := cmp.Diff([]any{want}, get("")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{want}, get("?resource_type=OS::Cinder::Volume&properties_target=image")); diff != "" {
		t.Error(diff)
	}
	want["properties"] = map[string]any{"hw_a": want["properties"].(map[string]any)["a"]}
	want["objects"] = []any{map[string]any{"name": "o", "properties": map[string]any{"hw_b": map[string]any{"title": "B", "type": "integer"}}},
		map[string]any{"name": "p"}}
	if diff := cmp.Diff([]any{want}, get("?resource_type=OS::Glance::Image")); diff != "" {
		t.Error(diff)
	}
	types := dialecttest.Decode[any](t, w.ajax("GET", "/api/glance/metadefs/resourcetypes/", ""))
	if diff := cmp.Diff(any(map[string]any{"items": []any{map[string]any{"name": "OS::Cinder::Volume", "created_at": at, "updated_at": at},
		map[string]any{"name": "OS::Glance::Image", "created_at": at, "updated_at": at}}}), types); diff != "" {
		t.Error(diff)
	}
}

func TestNamespaceQueries(t *testing.T) {
	w := newWorld(t)
	for n := range 23 {
		m := daemon.Metadef{Namespace: fmt.Sprintf("N%02d", n), DisplayName: fmt.Sprintf("%02d", 50-n), Visibility: daemon.Public}
		if n < 2 {
			m.ResourceTypes = []daemon.MetadefResource{{Name: "R", Target: "image"}, {Name: "S"}}
		}
		w.define(m)
	}
	for query, want := range map[string]string{
		"?paginate=true":                                 "20 N00 N19 true false",
		"?paginate=true&marker=N19":                      "3 N20 N22 false true",
		"?paginate=true&a;b=c;&marker=N19":               "3 N20 N22 false true",
		"?paginate=true&marker=N02":                      "20 N03 N22 false true",
		"?sort_dir=desc":                                 "23 N22 N00 false false",
		"?sort_key=display_name":                         "23 N22 N00 false false",
		"?sort_key=created_at&sort_dir=desc":             "23 N22 N00 false false",
		"?resource_type=R":                               "2 N00 N01 false false",
		"?resource_type=R&properties_target=image":       "2 N00 N01 false false",
		"?resource_type=S&properties_target=image":       "0   false false",
		"?properties_target=image":                       "2 N00 N01 false false",
		"?resource_type=unknown":                         "0   false false",
		"?visibility=private":                            "0   false false",
		"?marker=N20":                                    "2 N21 N22 false false",
		"?paginate=true&sort_dir=desc&marker=N01":        "1 N00 N00 false true",
		"?resource_type=&sort_key=&sort_dir=&unknown=xy": "23 N00 N22 false false",
	} {
		a := w.ajax("GET", "/api/glance/metadefs/namespaces/"+query, "")
		page, first, last := dialecttest.Decode[catalogue](t, a), "", ""
		if n := len(page.Items); n > 0 {
			first, last = page.Items[0].Namespace, page.Items[n-1].Namespace
		}
		if got := fmt.Sprint(len(page.Items), " ", first, " ", last, " ", page.More, " ", page.Prev); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?sort_key=x", "?sort_dir=up", "?paginate=x", "?marker=unknown", "?visibility=x", "?a=%zz"} {
		expect(t, w.ajax("GET", "/api/glance/metadefs/namespaces/"+query, ""), 400, "")
	}
}
