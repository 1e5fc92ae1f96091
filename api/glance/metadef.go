package glance

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

type association struct {
	Name      string `json:"name"`
	Prefix    string `json:"prefix,omitempty"`
	Target    string `json:"properties_target,omitempty"`
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
}

// defined is a namespace as a list has it.
func defined(m daemon.Metadef) map[string]any {
	types := []association{}
	for _, t := range m.ResourceTypes {
		types = append(types, association{t.Name, t.Prefix, t.Target, imageservice.Stamp(m.CreatedAt), imageservice.Stamp(m.UpdatedAt)})
	}
	return map[string]any{
		"namespace": m.Namespace, "display_name": m.DisplayName, "description": m.Description, "visibility": m.Visibility, "protected": m.Protected,
		"owner": m.Owner, "created_at": imageservice.Stamp(m.CreatedAt), "updated_at": imageservice.Stamp(m.UpdatedAt), "resource_type_associations": types,
		"self": "/v2/metadefs/namespaces/" + m.Namespace, "schema": "/v2/schemas/metadefs/namespace",
	}
}

// whole is a namespace with all that it defines; for a resource type, as the properties are named there.
func whole(m daemon.Metadef, resourceType string) (map[string]any, error) {
	out := defined(m)
	out["properties"], out["objects"] = m.Properties, m.Objects
	at := slices.IndexFunc(m.ResourceTypes, func(t daemon.MetadefResource) bool { return t.Name == resourceType })
	if at < 0 || m.ResourceTypes[at].Prefix == "" {
		return out, nil
	}
	rename := func(in map[string]any) map[string]any {
		renamed := make(map[string]any, len(in))
		for name, definition := range in {
			renamed[m.ResourceTypes[at].Prefix+name] = definition
		}
		return renamed
	}
	var properties map[string]any
	var objects []map[string]any
	if err := json.Unmarshal(m.Properties, &properties); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m.Objects, &objects); err != nil {
		return nil, err
	}
	for _, o := range objects {
		if in, ok := o["properties"].(map[string]any); ok {
			o["properties"] = rename(in)
		}
	}
	out["properties"], out["objects"] = rename(properties), objects
	return out, nil
}

var namespaceOrders = map[string]func(a, b daemon.Metadef) int{
	"namespace":  func(a, b daemon.Metadef) int { return 0 },
	"created_at": func(a, b daemon.Metadef) int { return a.CreatedAt.Compare(b.CreatedAt) },
	"updated_at": func(a, b daemon.Metadef) int { return a.UpdatedAt.Compare(b.UpdatedAt) },
}

func (f *Family) namespaces(c *call) (dialect.Reply, error) {
	values, err := parseQuery(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	size := usualLimit
	if values.Has("limit") {
		if size, err = limit(values.Get("limit")); err != nil {
			return dialect.Reply{}, err
		}
	}
	by, ok := namespaceOrders[cmp.Or(values.Get("sort_key"), "namespace")]
	direction := cmp.Or(values.Get("sort_dir"), "asc")
	if !ok || direction != "asc" && direction != "desc" {
		return dialect.Reply{}, dialect.Invalid("sort_key must be namespace, created_at or updated_at, and sort_dir asc or desc")
	}
	all, err := f.daemon.Metadefs(c.Context(), c.Caller, values.Get("resource_types"))
	if err != nil {
		return dialect.Reply{}, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(m daemon.Metadef) bool {
		return values.Get("visibility") != "" && string(m.Visibility) != values.Get("visibility")
	})
	slices.SortFunc(all, func(a, b daemon.Metadef) int {
		n := cmp.Or(by(a, b), cmp.Compare(a.Namespace, b.Namespace))
		if direction == "desc" {
			n = -n
		}
		return n
	})
	if marker := values.Get("marker"); marker != "" {
		at := slices.IndexFunc(all, func(m daemon.Metadef) bool { return m.Namespace == marker })
		if at < 0 {
			return dialect.Reply{}, dialect.Invalid("marker %.80q is no namespace of this list", marker)
		}
		all = all[at+1:]
	}
	items := []map[string]any{}
	for _, m := range all[:min(len(all), size)] {
		items = append(items, defined(m))
	}
	out := map[string]any{"namespaces": items, "schema": "/v2/schemas/metadefs/namespaces"}
	last := ""
	if len(all) > size && size > 0 {
		last = all[size-1].Namespace
	}
	links(out, "/v2/metadefs/namespaces", values, last)
	return reply(http.StatusOK, out)
}

// named finds a namespace that the caller may know.
func (f *Family) named(c *call, name string) (daemon.Metadef, error) {
	all, err := f.daemon.Metadefs(c.Context(), c.Caller, "")
	if err != nil {
		return daemon.Metadef{}, err
	}
	at := slices.IndexFunc(all, func(m daemon.Metadef) bool { return m.Namespace == name })
	if at < 0 {
		return daemon.Metadef{}, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no namespace %.80q", name)
	}
	return all[at], nil
}

func (f *Family) namespace(c *call) (dialect.Reply, error) {
	values, err := parseQuery(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	m, err := f.named(c, c.args[0])
	if err != nil {
		return dialect.Reply{}, err
	}
	out, err := whole(m, values.Get("resource_type"))
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(http.StatusOK, out)
}

// decodeNamespace reads a body over a namespace: what it does not say of types, properties and objects stays, and all
// else has its default. Names that it does not know, as in what was exported elsewhere, are passed over.
func decodeNamespace(o dialect.Object, old daemon.Metadef) (m daemon.Metadef, err error) {
	m = daemon.Metadef{ResourceTypes: old.ResourceTypes, Properties: old.Properties, Objects: old.Objects}
	var show string
	var owner *string
	for name, to := range map[string]any{"namespace": &m.Namespace, "display_name": &m.DisplayName, "description": &m.Description, "visibility": &show,
		"protected": &m.Protected, "owner": &owner} {
		if raw, ok := o[name]; ok && (string(raw) == "null" || json.Unmarshal(raw, to) != nil) {
			return m, dialect.Invalid("%s has the wrong type", name)
		}
	}
	if m.Namespace == "" {
		return m, dialect.Invalid("namespace is missing")
	}
	if owner != nil {
		m.Owner = *owner
	}
	m.Visibility = daemon.Visibility(cmp.Or(show, string(daemon.Private)))
	if raw, ok := o["resource_type_associations"]; ok {
		m.ResourceTypes = nil // Unmarshal would write into those that are there
		if json.Unmarshal(raw, &m.ResourceTypes) != nil {
			return m, dialect.Invalid("resource_type_associations must be a list of objects with a name")
		}
	}
	if raw, ok := o["properties"]; ok {
		m.Properties = raw
	}
	if raw, ok := o["objects"]; ok {
		m.Objects = raw
	}
	return m, nil
}

func (f *Family) addNamespace(c *call) (dialect.Reply, error) {
	o, err := c.object()
	if err != nil {
		return dialect.Reply{}, err
	}
	m, err := decodeNamespace(o, daemon.Metadef{})
	if err != nil {
		return dialect.Reply{}, err
	}
	if err := f.daemon.AddMetadef(c.Context(), c.Caller, m); err != nil {
		return dialect.Reply{}, err
	}
	p, err := f.written(c, http.StatusCreated, m.Namespace)
	p.Header = http.Header{"Location": {c.Base + prefix + "/v2/metadefs/namespaces/" + url.PathEscape(m.Namespace)}}
	return p, err
}

func (f *Family) written(c *call, status int, name string) (dialect.Reply, error) {
	m, err := f.named(c, name)
	if err != nil {
		return dialect.Reply{}, err
	}
	out, err := whole(m, "")
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(status, out)
}

func (f *Family) putNamespace(c *call) (dialect.Reply, error) {
	o, err := c.object()
	if err != nil {
		return dialect.Reply{}, err
	}
	f.changing.Lock()
	defer f.changing.Unlock()
	old, err := f.named(c, c.args[0])
	if err != nil {
		return dialect.Reply{}, err
	}
	m, err := decodeNamespace(o, old)
	if err != nil {
		return dialect.Reply{}, err
	}
	if m.Namespace != c.args[0] {
		return dialect.Reply{}, dialect.Invalid("a namespace cannot be renamed: make another")
	}
	if err := f.daemon.PutMetadef(c.Context(), c.Caller, m); err != nil {
		return dialect.Reply{}, err
	}
	return f.written(c, http.StatusOK, m.Namespace)
}

func (f *Family) removeNamespace(c *call) (dialect.Reply, error) {
	if _, err := f.named(c, c.args[0]); err != nil { // who may not know it is told nothing of it
		return dialect.Reply{}, err
	}
	return noContent(f.daemon.DeleteMetadef(c.Context(), c.Caller, c.args[0]))
}

// resourceTypes are those that some namespace is for.
func (f *Family) resourceTypes(c *call) (dialect.Reply, error) {
	all, err := f.daemon.Metadefs(c.Context(), c.Caller, "")
	if err != nil {
		return dialect.Reply{}, err
	}
	items := []association{}
	for _, m := range all {
		for _, t := range m.ResourceTypes {
			if !slices.ContainsFunc(items, func(r association) bool { return r.Name == t.Name }) {
				items = append(items, association{Name: t.Name, CreatedAt: imageservice.Stamp(m.CreatedAt), UpdatedAt: imageservice.Stamp(m.UpdatedAt)})
			}
		}
	}
	slices.SortFunc(items, func(a, b association) int { return cmp.Compare(a.Name, b.Name) })
	return reply(http.StatusOK, map[string]any{"resource_types": items})
}
