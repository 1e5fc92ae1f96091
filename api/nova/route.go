package nova

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// route is one call. The first path that fits is the one that counts, so that "detail" is no image.
type route struct {
	method, path string
	newest       int  // the last minor version that has it; 0 for all of them
	body         bool // it has one, of JSON
	deed         deed
	serve        func(*call) (dialect.Reply, error)
}

// The versions that still had images, and their metadata (images contract, section 4.5).
const (
	lastImages   = 35
	lastMetadata = 38
)

var routes = []route{
	{method: "GET", path: "", serve: (*call).showVersion},
	{method: "GET", path: "/images", newest: lastImages, serve: (*call).list},
	{method: "GET", path: "/images/detail", newest: lastImages, serve: (*call).listDetail},
	{method: "GET", path: "/images/{id}", newest: lastImages, serve: (*call).show},
	{method: "DELETE", path: "/images/{id}", newest: lastImages, deed: deletes, serve: (*call).remove},
	{method: "GET", path: "/images/{id}/metadata", newest: lastMetadata, serve: (*call).items},
	{method: "POST", path: "/images/{id}/metadata", newest: lastMetadata, body: true, deed: writes, serve: (*call).merge},
	{method: "PUT", path: "/images/{id}/metadata", newest: lastMetadata, body: true, deed: writes, serve: (*call).replace},
	{method: "GET", path: "/images/{id}/metadata/{key}", newest: lastMetadata, serve: (*call).item},
	{method: "PUT", path: "/images/{id}/metadata/{key}", newest: lastMetadata, body: true, deed: writes, serve: (*call).putItem},
	{method: "DELETE", path: "/images/{id}/metadata/{key}", newest: lastMetadata, deed: writes, serve: (*call).removeItem},
}

// resources are the names that follow a version; anything else in their place is a project.
var resources = []string{"images", "limits", "extensions", "flavors", "servers", "versions"}

// place is what a path names beside its route.
type place struct {
	project, id, key string
}

// route finds the route of a request, and reads its path. Names are decoded one by one, after the path is cut, so that
// no name ends where another would begin.
func (c *call) route() (*route, error) {
	escaped, ok := strings.CutPrefix(c.URL.EscapedPath(), c.prefix)
	if !ok {
		return nil, noRoute() // a prefix that is spelled with escapes
	}
	trimmed, slash := strings.CutSuffix(escaped, "/")
	var names []string
	for name := range strings.SplitSeq(strings.TrimPrefix(trimmed, "/"), "/") {
		plain, err := url.PathUnescape(name)
		if err != nil {
			return nil, noRoute()
		}
		names = append(names, plain)
	}
	switch {
	case trimmed == "":
		names = nil
	case slices.Contains(names, ""):
		return nil, noRoute()
	case !slices.Contains(resources, strings.TrimSuffix(names[0], c.suffix)):
		c.project, names = names[0], names[1:]
	}
	if last := len(names) - 1; last >= 0 && last < 3 {
		names[last] = strings.TrimSuffix(names[last], c.suffix)
	}
	return c.choose(names, slash)
}

func (c *call) choose(names []string, slash bool) (*route, error) {
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http sends no body
	}
	allowed := map[string]*route{}
	path := ""
	for i := range routes {
		r := &routes[i]
		at, ok := r.fits(names)
		if !ok || len(allowed) > 0 && r.path != path {
			continue
		}
		path, allowed[r.method] = r.path, r
		c.id, c.key = at.id, at.key
	}
	if r := allowed[method]; r != nil {
		return r, nil
	}
	// "DELETE /images/" means an image without an id, and no such one exists (images contract, section 1).
	if len(allowed) == 0 || slash || c.wrongMethod == http.StatusNotFound {
		return nil, noRoute()
	}
	methods := slices.Sorted(maps.Keys(allowed))
	if allowed[http.MethodGet] != nil {
		methods = append(methods, http.MethodHead)
	}
	list := strings.Join(methods, ", ")
	no := dialect.Refuse(c.wrongMethod, daemon.Invalid, "this path allows %s", list)
	no.Header = http.Header{"Allow": {list}}
	return nil, no
}

// fits says whether names are what the route's path asks for, and which of them are an id and a key.
func (r *route) fits(names []string) (at place, ok bool) {
	pattern := r.path
	for _, name := range names {
		want, rest, _ := strings.Cut(strings.TrimPrefix(pattern, "/"), "/")
		switch want {
		case "":
			return place{}, false
		case "{id}":
			at.id = name
		case "{key}":
			at.key = name
		case name:
		default:
			return place{}, false
		}
		pattern = rest
	}
	return at, pattern == ""
}

func noRoute() *dialect.Refusal {
	return &dialect.Refusal{Code: daemon.NotFound, Message: "the resource could not be found"}
}
