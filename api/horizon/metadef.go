package horizon

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

// namespace is one of the catalogue of metadata definitions (section 6.4).
type namespace struct {
	Namespace   string          `json:"namespace"`
	DisplayName string          `json:"display_name"`
	Description string          `json:"description"`
	Visibility  string          `json:"visibility"`
	Protected   bool            `json:"protected"`
	Owner       string          `json:"owner"`
	CreatedAt   string          `json:"created_at"`
	UpdatedAt   string          `json:"updated_at"`
	Types       []association   `json:"resource_type_associations"`
	Properties  json.RawMessage `json:"properties"`
	Objects     json.RawMessage `json:"objects"`
}

type association struct {
	Name      string `json:"name"`
	Prefix    string `json:"prefix,omitempty"`
	Target    string `json:"properties_target,omitempty"`
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
}

// namespaceOrders are the sort keys of namespaces; equal ones are in the order of their names.
var namespaceOrders = map[string]func(a, b daemon.Metadef) int{
	"namespace":    func(a, b daemon.Metadef) int { return 0 },
	"display_name": func(a, b daemon.Metadef) int { return cmp.Compare(a.DisplayName, b.DisplayName) },
	"created_at":   func(a, b daemon.Metadef) int { return a.CreatedAt.Compare(b.CreatedAt) },
	"updated_at":   func(a, b daemon.Metadef) int { return a.UpdatedAt.Compare(b.UpdatedAt) },
	"owner":        func(a, b daemon.Metadef) int { return cmp.Compare(a.Owner, b.Owner) },
}

// catalogueQuery is what a list of namespaces is to be.
type catalogueQuery struct {
	resourceType, target, marker string
	visibility                   daemon.Visibility
	order                        func(a, b daemon.Metadef) int
	paged                        bool
}

func parseCatalogueQuery(raw string) (q catalogueQuery, err error) {
	values, err := dialect.ParseQuery(raw)
	if err != nil {
		return q, err
	}
	get := func(name, otherwise string) string {
		if given := values[name]; len(given) > 0 && given[len(given)-1] != "" {
			return given[len(given)-1]
		}
		return otherwise
	}
	q.resourceType, q.target, q.marker = get("resource_type", ""), get("properties_target", ""), get("marker", "")
	if v := get("visibility", ""); v != "" {
		if q.visibility, err = visibility(v); err != nil {
			return q, err
		}
	}
	if q.paged, err = truth(get("paginate", "")); err != nil {
		return q, dialect.Invalid("paginate is %.80q: it must be true or false", get("paginate", ""))
	}
	by, ok := namespaceOrders[get("sort_key", "namespace")]
	if !ok {
		return q, dialect.Invalid("sort_key is %.80q: it must be namespace, display_name, created_at, updated_at or owner", get("sort_key", ""))
	}
	q.order = func(a, b daemon.Metadef) int { return cmp.Or(by(a, b), cmp.Compare(a.Namespace, b.Namespace)) }
	switch direction := get("sort_dir", "asc"); direction {
	case "asc":
	case "desc":
		up := q.order
		q.order = func(a, b daemon.Metadef) int { return up(b, a) }
	default:
		return q, dialect.Invalid("sort_dir is %.80q: it must be asc or desc", direction)
	}
	return q, nil
}

func (f *Family) namespaces(c *call) (dialect.Reply, error) {
	q, err := parseCatalogueQuery(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	all, err := f.daemon.Metadefs(c.Context(), c.Caller, q.resourceType)
	if err != nil {
		return dialect.Reply{}, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(m daemon.Metadef) bool { return !q.matches(m) })
	slices.SortFunc(all, q.order)
	if q.marker != "" {
		at := slices.IndexFunc(all, func(m daemon.Metadef) bool { return m.Namespace == q.marker })
		if at < 0 {
			return dialect.Reply{}, dialect.Invalid("marker %.80q is no namespace of this list", q.marker)
		}
		all = all[at+1:]
	}
	size := mostSize
	if q.paged {
		size = pageSize
	}
	items := make([]namespace, 0, len(all))
	for _, m := range all[:min(len(all), size)] {
		n, err := shownNamespace(m, q.resourceType)
		if err != nil {
			return dialect.Reply{}, err
		}
		items = append(items, n)
	}
	b, err := json.Marshal(items)
	return page(append(openPage(c), b...), q.paged && len(all) > size, q.paged && q.marker != ""), err
}

func (q catalogueQuery) matches(m daemon.Metadef) bool {
	if q.visibility != "" && m.Visibility != q.visibility {
		return false
	}
	return q.target == "" || slices.ContainsFunc(m.ResourceTypes, func(t daemon.MetadefResource) bool {
		return t.Target == q.target && (q.resourceType == "" || t.Name == q.resourceType)
	})
}

func shownNamespace(m daemon.Metadef, resourceType string) (namespace, error) {
	n := namespace{
		Namespace: m.Namespace, DisplayName: m.DisplayName, Description: m.Description, Visibility: string(m.Visibility), Protected: m.Protected,
		Owner: m.Owner, CreatedAt: imageservice.Stamp(m.CreatedAt), UpdatedAt: imageservice.Stamp(m.UpdatedAt), Types: []association{},
		Properties: m.Properties, Objects: m.Objects,
	}
	var err error
	for _, t := range m.ResourceTypes {
		n.Types = append(n.Types, association{t.Name, t.Prefix, t.Target, n.CreatedAt, n.UpdatedAt})
		if t.Name == resourceType && t.Prefix != "" && err == nil {
			n.Properties, n.Objects, err = prefixed(t.Prefix, m)
		}
	}
	return n, err
}

// prefixed names the properties, also those of objects, as they are named on a resource.
func prefixed(with string, m daemon.Metadef) (properties, objects json.RawMessage, err error) {
	rename := func(raw json.RawMessage) (json.RawMessage, error) {
		var in map[string]json.RawMessage
		if err := json.Unmarshal(raw, &in); err != nil {
			return nil, err
		}
		out := make(map[string]json.RawMessage, len(in))
		for name, definition := range in {
			out[with+name] = definition
		}
		return json.Marshal(out)
	}
	if properties, err = rename(m.Properties); err != nil {
		return nil, nil, err
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(m.Objects, &list); err != nil {
		return nil, nil, err
	}
	for _, o := range list {
		if renamed, err := rename(o["properties"]); err == nil {
			o["properties"] = renamed
		}
	}
	objects, err = json.Marshal(list)
	return properties, objects, err
}

// resourceTypes are those that some namespace is for.
func (f *Family) resourceTypes(c *call) (dialect.Reply, error) {
	all, err := f.daemon.Metadefs(c.Context(), c.Caller, "")
	if err != nil {
		return dialect.Reply{}, err
	}
	type resourceType struct {
		Name      string `json:"name"`
		CreatedAt string `json:"created_at"`
		UpdatedAt string `json:"updated_at"`
	}
	items := []resourceType{}
	for _, m := range all {
		for _, t := range m.ResourceTypes {
			at := slices.IndexFunc(items, func(r resourceType) bool { return r.Name == t.Name })
			if at < 0 {
				items = append(items, resourceType{t.Name, imageservice.Stamp(m.CreatedAt), imageservice.Stamp(m.UpdatedAt)})
				continue
			}
			items[at].CreatedAt = min(items[at].CreatedAt, imageservice.Stamp(m.CreatedAt))
			items[at].UpdatedAt = max(items[at].UpdatedAt, imageservice.Stamp(m.UpdatedAt))
		}
	}
	slices.SortFunc(items, func(a, b resourceType) int { return cmp.Compare(a.Name, b.Name) })
	return reply(http.StatusOK, map[string]any{"items": items})
}
