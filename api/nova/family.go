package nova

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// images is what is asked of the daemon.
type images interface {
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	SetImage(ctx context.Context, c daemon.Caller, id string, change daemon.ImageChange) (daemon.Image, error)
	RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
}

// Family is the codec of the compute API's image calls; a [dialect.Family].
type Family struct {
	images images
}

var _ dialect.Family = (*Family)(nil)

// New returns the family. Its errors are those of the verbs that it calls, and *dialect.Refusal.
func New(images images) *Family { return &Family{images: images} }

// Speaks is true for "/", "/v2.1", "/v2" and "/compute/v2.1", and for what is below the last three.
func (f *Family) Speaks(path string) bool { return path == "/" || mountOf(path) != nil }

// Open is true for reading the version documents that name no project.
func (f *Family) Open(method, path string) bool {
	if method != http.MethodGet && method != http.MethodHead {
		return false
	}
	m := mountOf(path)
	return path == "/" || m != nil && (path == m.prefix || path == m.prefix+"/")
}

func mountOf(path string) *mount {
	for _, m := range mounts {
		if rest, ok := strings.CutPrefix(path, m.prefix); ok && (rest == "" || rest[0] == '/') {
			return m
		}
	}
	return nil
}

// call is one request on its way.
type call struct {
	*dialect.Request
	*mount
	images  images
	place                  // what its path names
	members dialect.Object // of its body
}

// Serve answers a request. What a caller can observe comes in the contract's order (section 4.1): route, microversion,
// media type, JSON, project, and then what the route itself looks at.
func (f *Family) Serve(req *dialect.Request) (dialect.Reply, error) {
	if req.URL.Path == "/" {
		return root(req)
	}
	m := mountOf(req.URL.Path)
	c := &call{Request: req, mount: m, images: f.images}
	r, err := c.route()
	if err != nil {
		return dialect.Reply{}, err
	}
	req.Route = r.method + " " + m.name + r.path
	if err := m.has(r, req.Header); err != nil {
		return dialect.Reply{}, err
	}
	if r.body {
		if c.members, err = readMembers(req); err != nil {
			return dialect.Reply{}, err
		}
	}
	if err := c.checkProject(); err != nil {
		return dialect.Reply{}, err
	}
	p, err := r.serve(c)
	if err != nil {
		return dialect.Reply{}, m.told(err, r.deed)
	}
	p.Header = m.headers(req)
	return p, nil
}

// told gives an image that is on its way out the status that it has for this deed. One that is purged is not there for who
// writes, as it is not for who reads; deleting it is answered as deleting it twice.
func (v *variant) told(err error, d deed) error {
	if d == writes && errors.Is(err, daemon.ErrPurged) {
		return noImage()
	}
	e, ok := errors.AsType[*daemon.Error](err)
	if !ok || e.Code != daemon.Gone || v.gone[d] == 0 {
		return err
	}
	return &dialect.Refusal{Status: v.gone[d], Code: e.Code, Message: e.Message, Err: e.Err}
}

// checkProject refuses another project's address, though the token is good: with 400, as Nova does.
func (c *call) checkProject() error {
	own := projectOf(c.Caller)
	if c.project == "" || c.project == own {
		return nil
	}
	return dialect.Invalid("malformed request URL: its project %.64q is not the token's project %q", c.project, own)
}

// projectOf is the project that a caller's addresses may name.
func projectOf(c daemon.Caller) string {
	if c.Project != "" {
		return c.Project
	}
	return c.GUID
}
