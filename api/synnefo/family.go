package synnefo

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// verbs is what the dialect asks of the daemon. Every error is a *daemon.Error.
type verbs interface {
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error)
	RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
}

// Options is what the families need.
type Options struct {
	Daemon verbs
	// PollLimit is how far back changes-since may reach; 0 means an hour (images contract, section 5.4).
	PollLimit time.Duration
}

// New returns the family of each version.
func New(opt Options) []dialect.Family {
	if opt.PollLimit == 0 {
		opt.PollLimit = time.Hour
	}
	families := make([]dialect.Family, 0, len(versions))
	for i := range versions {
		families = append(families, &family{version: &versions[i], daemon: opt.Daemon, pollLimit: opt.PollLimit})
	}
	return families
}

// family speaks one version.
type family struct {
	*version
	daemon    verbs
	pollLimit time.Duration
}

// Speaks claims the version documents and everything below the version, and no neighbour: /api/glance and
// /compute/v2.1 are others'.
func (f *family) Speaks(path string) bool {
	_, document := f.documents[path]
	return document || strings.HasPrefix(path, f.path+"/")
}

// Open lets everybody read the version documents, and nothing else.
func (f *family) Open(method, path string) bool {
	_, document := f.documents[path]
	return document && method == http.MethodGet
}

// request is one request and what its path names.
type request struct {
	*dialect.Request
	place
}

// call is one method of a resource.
type call struct {
	method string
	answer func(*family, request) (dialect.Reply, error)
}

// calls are those of each resource, in the order in which Allow names them.
var calls = map[resource][]call{
	versionList: {{http.MethodGet, (*family).showVersions}},
	versionOne:  {{http.MethodGet, (*family).showVersion}},
	imageList:   {{http.MethodGet, (*family).listBrief}, {http.MethodPost, (*family).create}},
	imageDetail: {{http.MethodGet, (*family).listDetail}},
	imageOne:    {{http.MethodGet, (*family).showImage}, {http.MethodDelete, (*family).deleteImage}},
	metadataAll: {{http.MethodGet, (*family).showMetadata}, {http.MethodPost, (*family).mergeMetadata}},
	metadataItem: {{http.MethodGet, (*family).showItem}, {http.MethodPut, (*family).putItem},
		{http.MethodDelete, (*family).deleteItem}},
}

// Serve answers a request.
func (f *family) Serve(r *dialect.Request) (dialect.Reply, error) {
	p, err := f.locate(r.URL.EscapedPath())
	if err != nil {
		return dialect.Reply{}, err
	}
	allowed := make([]string, 0, len(calls[p.at]))
	for _, c := range calls[p.at] {
		if c.method == r.Method {
			r.Route = r.Method + " " + f.pattern(p.at)
			return c.answer(f, request{r, p})
		}
		allowed = append(allowed, c.method)
	}
	no := dialect.Refuse(f.noMethod, daemon.Invalid, "the method is not allowed: this path takes %s", strings.Join(allowed, ", "))
	if f.noMethod == http.StatusMethodNotAllowed {
		no.Header = http.Header{"Allow": {strings.Join(allowed, ",")}}
	}
	return dialect.Reply{}, no
}
