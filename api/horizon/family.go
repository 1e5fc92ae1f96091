package horizon

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

// verbs is what the dialect asks of the daemon. Every error is a *daemon.Error; any other is taken as internal.
type verbs interface {
	AddImage(context.Context, daemon.Caller, daemon.NewImage) (daemon.Image, daemon.Operation, error)
	AppendImage(ctx context.Context, c daemon.Caller, id string, offset int64, r io.Reader) (daemon.ImageUpload, error)
	FinishImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	SetImage(context.Context, daemon.Caller, string, daemon.ImageChange) (daemon.Image, error)
	RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	Metadefs(ctx context.Context, c daemon.Caller, resourceType string) ([]daemon.Metadef, error)
}

// Family answers below /api/glance. It is a [dialect.Family].
type Family struct{ daemon verbs }

var _ dialect.Family = (*Family)(nil)

// New returns the dialect in front of a daemon.
func New(d verbs) *Family { return &Family{daemon: d} }

const prefix = "/api/glance"

// Speaks is true below /api/glance.
func (f *Family) Speaks(path string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// Open is false: every call needs an identity, the version too (section 6.1).
func (f *Family) Open(string, string) bool { return false }

// call is a request that has found its route.
type call struct {
	*dialect.Request
	id   string         // of the image in the path; a UUID
	body dialect.Object // nil when there is none
}

type handler func(*Family, *call) (dialect.Reply, error)

// routes are the paths below the prefix, without the slash that may end them; "*" is the id of an image (section 6.2).
var routes = map[string]map[string]handler{
	"version":                {"GET": (*Family).version},
	"images":                 {"GET": (*Family).list, "PUT": (*Family).create, "POST": (*Family).create},
	"images/*":               {"GET": (*Family).show, "PATCH": (*Family).patch, "DELETE": (*Family).remove},
	"images/*/properties":    {"GET": (*Family).properties, "PATCH": (*Family).patchProperties},
	"metadefs/namespaces":    {"GET": (*Family).namespaces},
	"metadefs/resourcetypes": {"GET": (*Family).resourceTypes},
}

// Serve answers a request. What can be seen comes in this order: identity, route, X-Requested-With, body.
func (f *Family) Serve(r *dialect.Request) (dialect.Reply, error) {
	c := &call{Request: r}
	path := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r.URL.EscapedPath(), prefix), "/"), "/")
	parts := strings.Split(path, "/")
	if len(parts) > 1 && parts[0] == "images" && parts[1] != "" {
		c.id, parts[1] = parts[1], "*"
	}
	pattern := strings.Join(parts, "/")
	methods, ok := routes[pattern]
	if !ok {
		return dialect.Reply{}, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "there is nothing at this path")
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	do, ok := methods[method]
	if !ok {
		r.Route = "other " + prefix + "/" + pattern + "/"
		no := dialect.Refuse(http.StatusMethodNotAllowed, daemon.Invalid, "this path has no such method")
		no.Header = http.Header{"Allow": {allowed(methods)}}
		return dialect.Reply{}, no
	}
	r.Route = method + " " + prefix + "/" + pattern + "/"
	posted := pattern == "images" && method == http.MethodPost
	if !posted && r.Header.Get("X-Requested-With") != "XMLHttpRequest" {
		return dialect.Reply{}, dialect.Invalid("request must be AJAX")
	}
	if posted && isForm(r.Request) {
		return f.createFromForm(c)
	}
	if err := c.read(method); err != nil {
		return dialect.Reply{}, err
	}
	if c.id != "" {
		if id, err := uuid.Parse(c.id); err != nil || id.String() != c.id {
			return dialect.Reply{}, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no image %.80q", c.id)
		}
	}
	return do(f, c)
}

func allowed(methods map[string]handler) string {
	var names []string
	for m := range methods {
		names = append(names, m)
		if m == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func isForm(r *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return kind == "multipart/form-data"
}

// read takes the body, which must be JSON where there is one, and something where something is to be written.
func (c *call) read(method string) error {
	raw, err := c.ReadBody()
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(raw))) > 0 {
		o, err := dialect.ParseObject(raw)
		if err != nil && !falsy(raw) {
			return dialect.Invalid("malformed JSON request: %v", err)
		}
		c.body = o
	}
	if len(c.body) == 0 && method != http.MethodGet && method != http.MethodDelete {
		return dialect.Invalid("request requires JSON body")
	}
	return nil
}

// falsy says whether a body is a JSON value that Python takes for false, as the dashboard's server does.
func falsy(raw []byte) bool {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return false
	}
	list, isList := v.([]any)
	return v == nil || v == false || v == 0.0 || v == "" || isList && len(list) == 0
}

const mediaType = "application/json"

func reply(status int, v any) (dialect.Reply, error) {
	body, err := json.Marshal(v)
	return dialect.Reply{Status: status, MediaType: mediaType, Body: body}, err
}

// Fault is a bare JSON string; nothing at all for a method that a path does not have.
func (f *Family) Fault(_ *dialect.Request, no *dialect.Refusal) dialect.Reply {
	status := imageservice.Status(no)
	p := dialect.Reply{Status: status, Header: imageservice.Headers(no)}
	if status == http.StatusMethodNotAllowed {
		return p
	}
	message := no.Message
	if status == http.StatusUnauthorized {
		message = "not logged in" // what the dashboard looks for
	}
	p.MediaType = mediaType
	p.Body, _ = json.Marshal(message) // a string always can be
	return p
}

func (f *Family) version(*call) (dialect.Reply, error) {
	return reply(http.StatusOK, map[string]string{"version": "2"})
}
