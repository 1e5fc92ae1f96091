package glance

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

// verbs is what the dialect asks of the daemon. Every error is a *daemon.Error; any other is taken as internal.
type verbs interface {
	images
	metadefs
}

type images interface {
	AddImage(context.Context, daemon.Caller, daemon.NewImage) (daemon.Image, daemon.Operation, error)
	AppendImage(ctx context.Context, c daemon.Caller, id string, offset int64, r io.Reader) (daemon.ImageUpload, error)
	FinishImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	WaitOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	OpenImage(ctx context.Context, c daemon.Caller, id string) (*os.File, daemon.Image, error)
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	SetImage(context.Context, daemon.Caller, string, daemon.ImageChange) (daemon.Image, error)
	RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
}

type metadefs interface {
	Metadefs(ctx context.Context, c daemon.Caller, resourceType string) ([]daemon.Metadef, error)
	AddMetadef(context.Context, daemon.Caller, daemon.Metadef) error
	PutMetadef(context.Context, daemon.Caller, daemon.Metadef) error
	DeleteMetadef(ctx context.Context, c daemon.Caller, namespace string) error
}

// Family answers below /image. It is a [dialect.Family].
type Family struct {
	daemon verbs
	// changing makes "read an image, then change it" one act: tags are one item of its metadata.
	changing sync.Mutex
}

var _ dialect.Family = (*Family)(nil)

// New returns the dialect in front of a daemon.
func New(d verbs) *Family { return &Family{daemon: d} }

const prefix = "/image"

// Speaks is true below /image.
func (f *Family) Speaks(path string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// Open is true for the version documents.
func (f *Family) Open(method, path string) bool {
	if method != http.MethodGet && method != http.MethodHead {
		return false
	}
	return slices.Contains([]string{"", "versions", "v2"}, relative(path))
}

func relative(path string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(path, prefix), "/"), "/")
}

// call is a request that has found its route.
type call struct {
	*dialect.Request
	args []string // what stands for the stars of its route
}

func (c *call) id() string { return c.args[0] }

type handler func(*Family, *call) (dialect.Reply, error)

// routes are the paths below the prefix; "*" is one segment that a caller names.
var routes = map[string]map[string]handler{
	"":                           {"GET": (*Family).versions, "HEAD": (*Family).versions},
	"versions":                   {"GET": (*Family).versions, "HEAD": (*Family).versions},
	"v2":                         {"GET": (*Family).versions, "HEAD": (*Family).versions},
	"v2/images":                  {"GET": (*Family).list, "POST": (*Family).create},
	"v2/images/*":                {"GET": (*Family).show, "PATCH": (*Family).patch, "DELETE": (*Family).remove},
	"v2/images/*/file":           {"GET": (*Family).download, "PUT": (*Family).upload},
	"v2/images/*/tags/*":         {"PUT": (*Family).tag, "DELETE": (*Family).untag},
	"v2/schemas/*":               {"GET": (*Family).schema},
	"v2/schemas/metadefs/*":      {"GET": (*Family).metadefSchema},
	"v2/metadefs/namespaces":     {"GET": (*Family).namespaces, "POST": (*Family).addNamespace},
	"v2/metadefs/namespaces/*":   {"GET": (*Family).namespace, "PUT": (*Family).putNamespace, "DELETE": (*Family).removeNamespace},
	"v2/metadefs/resource_types": {"GET": (*Family).resourceTypes},
}

// find matches a path, segment by segment, and decodes what callers name; no two routes match the same.
func find(path string) (pattern string, args []string, ok bool) {
	parts := strings.Split(path, "/")
	for pattern := range routes {
		if args, ok := match(strings.Split(pattern, "/"), parts); ok {
			return pattern, args, true
		}
	}
	return "", nil, false
}

func match(want, parts []string) (args []string, ok bool) {
	if len(want) != len(parts) {
		return nil, false
	}
	for n, segment := range want {
		switch {
		case segment == "*" && parts[n] != "":
			arg, err := url.PathUnescape(parts[n])
			if err != nil {
				return nil, false
			}
			args = append(args, arg)
		case segment != parts[n]:
			return nil, false
		}
	}
	return args, true
}

// Serve answers a request.
func (f *Family) Serve(r *dialect.Request) (dialect.Reply, error) {
	pattern, args, ok := find(relative(r.URL.EscapedPath()))
	if !ok {
		return dialect.Reply{}, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "there is nothing at this path")
	}
	methods := routes[pattern]
	do, ok := methods[r.Method]
	if !ok {
		r.Route = "other " + prefix + "/" + pattern
		no := dialect.Refuse(http.StatusMethodNotAllowed, daemon.Invalid, "this path has no such method")
		var names []string
		for m := range methods {
			names = append(names, m)
		}
		slices.Sort(names)
		no.Header = http.Header{"Allow": {strings.Join(names, ", ")}}
		return dialect.Reply{}, no
	}
	r.Route = r.Method + " " + prefix + "/" + pattern
	if strings.HasPrefix(pattern, "v2/images/*") {
		if id, err := uuid.Parse(args[0]); err != nil || id.String() != args[0] {
			return dialect.Reply{}, noImage(args[0])
		}
	}
	p, err := do(f, &call{Request: r, args: args})
	if p.Header == nil {
		p.Header = http.Header{}
	}
	p.Header.Set("X-Openstack-Request-Id", "req-"+r.ID)
	return p, err
}

func noImage(id string) *dialect.Refusal {
	return dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no image %.80q", id)
}

// media checks the type of a body.
func (c *call) media(want string) error {
	if kind, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || kind != want {
		return dialect.Refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "the Content-Type must be %s", want)
	}
	return nil
}

// object reads a body that is a JSON object.
func (c *call) object() (dialect.Object, error) {
	if err := c.media("application/json"); err != nil {
		return nil, err
	}
	body, err := c.ReadBody()
	if err != nil {
		return nil, err
	}
	return dialect.ParseObject(body)
}

func reply(status int, v any) (dialect.Reply, error) {
	body, err := json.Marshal(v)
	return dialect.Reply{Status: status, MediaType: "application/json", Body: body}, err
}

func noContent(err error) (dialect.Reply, error) {
	return dialect.Reply{Status: http.StatusNoContent}, err
}

// Fault is an object of an object with a message: what every client reads, where Glance itself sends a page of HTML.
func (f *Family) Fault(r *dialect.Request, no *dialect.Refusal) dialect.Reply {
	status := imageservice.Status(no)
	p, _ := reply(status, map[string]any{"error": map[string]any{"code": status, "title": http.StatusText(status), "message": no.Message}})
	p.Header = imageservice.Headers(no)
	p.Header.Set("X-Openstack-Request-Id", "req-"+r.ID)
	return p
}
