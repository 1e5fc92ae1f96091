package daemon_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon"
)

func (b *bench) namespaces(c daemon.Caller, resourceType string) (names []string) {
	b.t.Helper()
	all, err := b.Metadefs(b.t.Context(), c, resourceType)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range all {
		names = append(names, m.Namespace)
	}
	return names
}

func TestCatalogue(t *testing.T) {
	b := newBench(t, nil)
	all := b.namespaces(alice, "")
	for _, want := range []string{"OS::Compute::GuestMemoryBacking", "OS::Compute::Libvirt", "OS::Compute::VirtCPUTopology", "OS::Compute::Watchdog",
		"OS::OperatingSystem", "OS::Software"} {
		if !slices.Contains(all, want) {
			t.Errorf("%s is not in the catalogue", want)
		}
	}
	if !slices.IsSorted(all) {
		t.Errorf("the namespaces are in disorder: %v", all)
	}
	defs, err := b.Metadefs(t.Context(), alice, "OS::Nova::Flavor")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range defs {
		if !strings.HasPrefix(m.Namespace, "OS::Compute::") || m.Visibility != daemon.Public || m.CreatedAt.IsZero() {
			t.Errorf("%+v", m)
		}
		if !slices.Contains(m.ResourceTypes, daemon.MetadefResource{Name: "OS::Nova::Flavor", Prefix: "hw:"}) {
			t.Errorf("%s: %v", m.Namespace, m.ResourceTypes)
		}
	}
	if len(defs) != 3 {
		t.Errorf("%d namespaces for flavors", len(defs))
	}
}

// TestCatalogueIsSeededOnce deletes from the catalogue and changes it: both last, whatever the daemon is started from.
func TestCatalogueIsSeededOnce(t *testing.T) {
	b := newBench(t, nil)
	const gone, changed = "OS::Software", "OS::Compute::Watchdog"
	if err := b.DeleteMetadef(t.Context(), root, gone); err != nil {
		t.Fatal(err)
	}
	if err := b.PutMetadef(t.Context(), root, daemon.Metadef{Namespace: changed, Visibility: daemon.Public, Description: "ours"}); err != nil {
		t.Fatal(err)
	}
	before, err := b.Metadefs(t.Context(), root, "")
	if err != nil {
		t.Fatal(err)
	}
	b.kill()
	b.start()
	after, err := b.Metadefs(t.Context(), root, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	for _, m := range after {
		if m.Namespace == gone || m.Namespace == changed && m.Description != "ours" {
			t.Errorf("%s is back: %+v", m.Namespace, m)
		}
	}
}

func TestMetadefs(t *testing.T) {
	b := newBench(t, nil)
	admin := daemon.Caller{GUID: "eve", Roles: []string{"admin"}}
	in := daemon.Metadef{
		Namespace: "My::Own", DisplayName: "Mine", Description: "two\nlines", Protected: true,
		ResourceTypes: []daemon.MetadefResource{{Name: "OS::Glance::Image", Prefix: "my_", Target: "image"}},
		Properties:    json.RawMessage(`{"a":{"title":"A","type":"string","enum":["x"]}}`), Objects: json.RawMessage(`[{"name":"o","properties":{}}]`),
	}
	if err := b.AddMetadef(t.Context(), admin, in); err != nil {
		t.Fatal(err)
	}
	if err := b.AddMetadef(t.Context(), admin, in); code(err) != daemon.Conflict {
		t.Errorf("added twice: %v", err)
	}
	read := func() daemon.Metadef {
		t.Helper()
		all, err := b.Metadefs(t.Context(), root, "OS::Glance::Image")
		at := slices.IndexFunc(all, func(m daemon.Metadef) bool { return m.Namespace == "My::Own" })
		if err != nil || at < 0 {
			t.Fatalf("%v, and %d", err, at)
		}
		return all[at]
	}
	want := in
	want.Visibility, want.Owner = daemon.Private, "eve"
	first := read()
	if diff := cmp.Diff(want, first, cmpopts.IgnoreFields(daemon.Metadef{}, "CreatedAt", "UpdatedAt")); diff != "" {
		t.Error(diff)
	}
	if slices.Contains(b.namespaces(alice, ""), "My::Own") || !slices.Contains(b.namespaces(daemon.Caller{GUID: "eve"}, ""), "My::Own") {
		t.Error("a private namespace is for its owner and the administrators")
	}
	if err := b.DeleteMetadef(t.Context(), root, "My::Own"); code(err) != daemon.Forbidden {
		t.Errorf("a protected namespace is deleted: %v", err)
	}
	if err := b.PutMetadef(t.Context(), root, daemon.Metadef{Namespace: "My::Own", Visibility: daemon.Public}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(b.namespaces(bob, ""), "My::Own") || slices.Contains(b.namespaces(bob, "OS::Glance::Image"), "My::Own") {
		t.Error("what was put does not show")
	}
	if err := b.DeleteMetadef(t.Context(), root, "My::Own"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteMetadef(t.Context(), root, "My::Own"); code(err) != daemon.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if first.CreatedAt.IsZero() || time.Since(first.CreatedAt) < 0 {
		t.Errorf("created at %v", first.CreatedAt)
	}
}

func TestMetadefsForbidden(t *testing.T) {
	b, raw := opened(t, nil)
	for _, row := range []struct {
		caller daemon.Caller
		want   daemon.Code
	}{{alice, daemon.Forbidden}, {daemon.Caller{}, daemon.Unauthorized}} {
		for name, err := range map[string]error{
			"add":    b.AddMetadef(t.Context(), row.caller, daemon.Metadef{Namespace: "x"}),
			"put":    b.PutMetadef(t.Context(), row.caller, daemon.Metadef{Namespace: "x"}),
			"delete": b.DeleteMetadef(t.Context(), row.caller, "OS::Software"),
		} {
			if code(err) != row.want {
				t.Errorf("%s by %q: %v, want %s", name, row.caller.GUID, err, row.want)
			}
		}
	}
	if _, err := b.Metadefs(t.Context(), daemon.Caller{}, ""); code(err) != daemon.Unauthorized {
		t.Errorf("read by nobody: %v", err)
	}
	if all := b.namespaces(root, ""); slices.Contains(all, "x") || !slices.Contains(all, "OS::Software") {
		t.Errorf("something changed: %v", all)
	}
	if err := b.DeleteMetadef(t.Context(), root, "OS::Software"); err != nil {
		t.Fatal(err)
	}
	acts := audit(t, raw)
	want := act{"alice", alice.From, "metadef-delete", "OS::Software", "refused"}
	done := act{"root", root.From, "metadef-delete", "OS::Software", "done"}
	if !slices.Contains(acts, want) || !slices.Contains(acts, done) {
		t.Errorf("the audit trail lacks %v or %v: %v", want, done, acts)
	}
}

func TestMetadefsBadInput(t *testing.T) {
	b := newBench(t, nil)
	many := make([]daemon.MetadefResource, 65)
	for i := range many {
		many[i].Name = fmt.Sprint(i)
	}
	for name, m := range map[string]daemon.Metadef{
		"no name":              {},
		"long name":            {Namespace: strings.Repeat("n", 81)},
		"slash":                {Namespace: "a/b"},
		"control":              {Namespace: "a\nb"},
		"not UTF-8":            {Namespace: "a", DisplayName: "\xff"},
		"long description":     {Namespace: "a", Description: strings.Repeat("d", 501)},
		"visibility":           {Namespace: "a", Visibility: daemon.Shared},
		"nameless type":        {Namespace: "a", ResourceTypes: []daemon.MetadefResource{{}}},
		"type twice":           {Namespace: "a", ResourceTypes: []daemon.MetadefResource{{Name: "x"}, {Name: "x", Prefix: "p"}}},
		"long prefix":          {Namespace: "a", ResourceTypes: []daemon.MetadefResource{{Name: "x", Prefix: strings.Repeat("p", 81)}}},
		"many types":           {Namespace: "a", ResourceTypes: many},
		"properties array":     {Namespace: "a", Properties: json.RawMessage(`[]`)},
		"properties null":      {Namespace: "a", Properties: json.RawMessage(`null`)},
		"property no object":   {Namespace: "a", Properties: json.RawMessage(`{"a":1}`)},
		"property no title":    {Namespace: "a", Properties: json.RawMessage(`{"a":{"type":"string"}}`)},
		"property of no type":  {Namespace: "a", Properties: json.RawMessage(`{"a":{"title":"t","type":"date"}}`)},
		"property of no name":  {Namespace: "a", Properties: json.RawMessage(`{"":{"title":"t","type":"string"}}`)},
		"not JSON":             {Namespace: "a", Properties: json.RawMessage(`{`)},
		"objects object":       {Namespace: "a", Objects: json.RawMessage(`{}`)},
		"objects null":         {Namespace: "a", Objects: json.RawMessage(`null`)},
		"object of no name":    {Namespace: "a", Objects: json.RawMessage(`[{}]`)},
		"properties too large": {Namespace: "a", Properties: json.RawMessage(`{"a":{"title":"` + strings.Repeat("t", 1<<17) + `","type":"string"}}`)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.PutMetadef(t.Context(), root, m); code(err) != daemon.Invalid {
				t.Errorf("%v", err)
			}
		})
	}
}
