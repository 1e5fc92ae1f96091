package glance_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/daemon"
)

var admin = daemon.Caller{GUID: "admin", Roles: []string{daemon.RoleAdmin}}

func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	const body = `{"namespace":"OS::A b","display_name":"A","description":"d","visibility":"public","protected":true,"schema":"ignored",
		"resource_type_associations":[{"name":"OS::Glance::Image","prefix":"hw_","created_at":"ignored"},{"name":"OS::Cinder::Volume","properties_target":"image"}],
		"properties":{"a":{"title":"T","type":"string"}},"objects":[{"name":"o","properties":{"b":{"title":"B","type":"string"}}}]}`
	expect(t, w.ask("POST", "/v2/metadefs/namespaces", body), 403, "")
	a := w.ask("POST", "/v2/metadefs/namespaces", body, "X-Auth-Token", "admin")
	expect(t, a, 201, "")
	if a.Header.Get("Location") != "http://host.example/image/v2/metadefs/namespaces/OS::A%20b" {
		t.Errorf("Location %s", a.Header.Get("Location"))
	}
	const at = "2026-01-01T00:00:01Z"
	want := map[string]any{
		"namespace": "OS::A b", "display_name": "A", "description": "d", "visibility": "public", "protected": true, "owner": "admin", "created_at": at, "updated_at": at,
		"resource_type_associations": []any{map[string]any{"name": "OS::Glance::Image", "prefix": "hw_", "created_at": at, "updated_at": at},
			map[string]any{"name": "OS::Cinder::Volume", "properties_target": "image", "created_at": at, "updated_at": at}},
		"self": "/v2/metadefs/namespaces/OS::A b", "schema": "/v2/schemas/metadefs/namespace",
		"properties": map[string]any{"a": map[string]any{"title": "T", "type": "string"}},
		"objects":    []any{map[string]any{"name": "o", "properties": map[string]any{"b": map[string]any{"title": "B", "type": "string"}}}},
	}
	if diff := cmp.Diff(want, dialecttest.Decode[map[string]any](t, a)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/metadefs/namespaces/OS::A%20b", ""))); diff != "" {
		t.Error(diff)
	}
	prefixed := w.ask("GET", "/v2/metadefs/namespaces/OS::A%20b?resource_type=OS::Glance::Image", "")
	expect(t, prefixed, 200, `"hw_a":`)
	expect(t, prefixed, 200, `"hw_b":`)
	delete(want, "properties")
	delete(want, "objects")
	if diff := cmp.Diff([]any{want}, dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/metadefs/namespaces", ""))["namespaces"]); diff != "" {
		t.Error(diff)
	}
	types := map[string]any{"resource_types": []any{map[string]any{"name": "OS::Cinder::Volume", "created_at": at, "updated_at": at},
		map[string]any{"name": "OS::Glance::Image", "created_at": at, "updated_at": at}}}
	if diff := cmp.Diff(types, dialecttest.Decode[map[string]any](t, w.ask("GET", "/v2/metadefs/resource_types", ""))); diff != "" {
		t.Error(diff)
	}

	path := "/v2/metadefs/namespaces/OS::A%20b"
	expect(t, w.ask("POST", "/v2/metadefs/namespaces", body, "X-Auth-Token", "admin"), 409, "")
	expect(t, w.ask("DELETE", path, "", "X-Auth-Token", "admin"), 403, "protected")
	expect(t, w.ask("PUT", path, `{"namespace":"OS::A b"}`), 403, "")
	expect(t, w.ask("PUT", path, `{"namespace":"other"}`, "X-Auth-Token", "admin"), 400, "renamed")
	a = w.ask("PUT", path, `{"namespace":"OS::A b","visibility":"private"}`, "X-Auth-Token", "admin")
	expect(t, a, 200, `"properties":{"a":`)
	expect(t, a, 200, `"protected":false`)
	expect(t, a, 200, `"hw_"`)
	expect(t, w.ask("GET", path, ""), 404, "") // private now
	expect(t, w.ask("DELETE", path, ""), 404, "")
	expect(t, w.ask("PUT", path, `{"namespace":"OS::A b"}`), 404, "")
	expect(t, w.ask("DELETE", path, "", "X-Auth-Token", "admin"), 204, "")
	expect(t, w.ask("DELETE", path, "", "X-Auth-Token", "admin"), 404, "")
	expect(t, w.ask("PUT", path, `{"namespace":"OS::A b"}`, "X-Auth-Token", "admin"), 404, "")
	for _, bad := range []string{"", "{", "[]", "{}", `{"namespace":1}`, `{"namespace":null}`, `{"namespace":"a","protected":"x"}`, `{"namespace":"a","description":1}`,
		`{"namespace":"a","resource_type_associations":{}}`, `{"namespace":"a","resource_type_associations":["x"]}`, `{"namespace":"a","visibility":"shared"}`, `{"namespace":"a","namespace":"b"}`} {
		expect(t, w.ask("POST", "/v2/metadefs/namespaces", bad, "X-Auth-Token", "admin"), 400, "")
	}
	expect(t, w.ask("POST", "/v2/metadefs/namespaces", "{}", "X-Auth-Token", "admin", "Content-Type", "text/plain"), 415, "")
}

func TestNamespacePages(t *testing.T) {
	w := newWorld(t)
	for n := range 5 {
		m := daemon.Metadef{Namespace: fmt.Sprintf("N%d", n), Visibility: daemon.Public}
		if n == 2 {
			m.ResourceTypes = []daemon.MetadefResource{{Name: "R"}}
		}
		if err := w.daemon.PutMetadef(t.Context(), admin, m); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]string{
		"": "5 N0 ", "?limit=2": "2 N0 /v2/metadefs/namespaces?limit=2&marker=N1", "?limit=2&marker=N3": "1 N4 ", "?sort_dir=desc": "5 N4 ", "?resource_types=R": "1 N2 ",
		"?visibility=private": "0  ", "?sort_key=created_at&sort_dir=desc&limit=4": "4 N4 /v2/metadefs/namespaces?limit=4&marker=N1&sort_dir=desc&sort_key=created_at", "?limit=0": "0  ",
	} {
		a := w.ask("GET", "/v2/metadefs/namespaces"+query, "")
		page, first := dialecttest.Decode[struct {
			Namespaces []struct{ Namespace string }
			Next       string
		}](t, a), ""
		if len(page.Namespaces) > 0 {
			first = page.Namespaces[0].Namespace
		}
		if got := fmt.Sprintf("%d %s %s", len(page.Namespaces), first, page.Next); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?limit=x", "?sort_key=x", "?sort_dir=x", "?marker=x", "?a=%zz"} {
		expect(t, w.ask("GET", "/v2/metadefs/namespaces"+query, ""), 400, "")
	}
}
