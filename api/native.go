package api

import (
	"context"
	_ "embed"
	"net/http"
	"path/filepath"
	"regexp"
	"time"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// maxWait is the longest long poll, in seconds. The server's write timeout is longer.
const maxWait = 60

//go:embed openapi.yaml
var openAPI []byte

var (
	operationsParams = params{
		{name: "target", check: matching(`[A-Za-z0-9-]{1,64}`, "the id of a capsule or an image")},
		{name: "state", check: oneOf(string(daemon.OperationRunning), string(daemon.OperationSucceeded), string(daemon.OperationFailed))},
		{name: "limit", check: number(1, 1000)},
	}
	operationParams = params{{name: "wait", check: number(0, maxWait)}}
	idPattern       = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,128}\z`)
)

func (s *Server) health(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	return reply{body: wire.Health{Status: "ok"}}, nil
}

func (s *Server) ready(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	r := s.daemon.Ready()
	if r.Ready {
		return reply{body: wire.Health{Status: "ok"}}, nil
	}
	return reply{
		status: http.StatusServiceUnavailable,
		retry:  retryAfter[daemon.Unavailable],
		body:   wire.Health{Status: "waiting", Reasons: r.Reasons},
	}, nil
}

func (s *Server) scrape(_ http.ResponseWriter, _ *http.Request, c daemon.Caller) (reply, error) {
	if !c.HasRole(daemon.RoleMetrics) {
		return reply{}, &daemon.Error{Code: daemon.Forbidden, Message: "metrics need the role " + daemon.RoleMetrics}
	}
	return reply{pass: s.scraped.ServeHTTP}, nil
}

func (s *Server) describe(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	return reply{text: openAPI, mediaType: "application/yaml"}, nil
}

func (s *Server) listOperations(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, operationsParams)
	if err != nil {
		return reply{}, err
	}
	found, err := s.daemon.Operations(r.Context(), c, daemon.OperationFilter{
		Target: f["target"],
		State:  daemon.OperationState(f["state"]),
		Limit:  f.number("limit"),
	})
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.OperationList{Operations: each(found, operation)}}, nil
}

func (s *Server) showOperation(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "operation")
	if err != nil {
		return reply{}, err
	}
	f, err := readQuery(r, operationParams)
	if err != nil {
		return reply{}, err
	}
	op, err := s.operation(r.Context(), c, id, time.Duration(f.number("wait"))*time.Second)
	if err != nil {
		return reply{}, err
	}
	return reply{body: operation(op)}, nil
}

// operation returns the operation as soon as it has ended, after wait, or when the server shuts down.
func (s *Server) operation(ctx context.Context, c daemon.Caller, id string, wait time.Duration) (daemon.Operation, error) {
	if wait == 0 {
		return s.daemon.Operation(ctx, c, id)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	return s.daemon.WaitOperation(ctx, c, id)
}

func (s *Server) listImages(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.Images(r.Context(), c)
	if err != nil {
		return reply{}, err
	}
	list := wire.ImageList{Images: make([]wire.Image, len(found))}
	for i, img := range found {
		list.Images[i] = image(img)
	}
	return reply{body: list}, nil
}

func (s *Server) addImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	want, err := readNewImage(w, r)
	if err != nil {
		return reply{}, err
	}
	img, op, err := s.daemon.AddImage(r.Context(), c, want)
	if err != nil {
		return reply{}, err
	}
	p := accepted(img.ID, op)
	p.location = "/v1/images/" + img.ID
	return p, nil
}

// newImageChecks are the limits of the contract's columns. A path is only held to be one here: whether this caller may
// name it, and what lies there, the daemon and the image store decide.
var newImageChecks = []struct {
	name  string
	check check
	value func(*wire.NewImage) *string
}{
	{"name", line(1, daemon.MaxImageName), func(n *wire.NewImage) *string { return &n.Name }},
	{"description", text(daemon.MaxImageDescription), func(n *wire.NewImage) *string { return &n.Description }},
	{"path", line(1, daemon.MaxImagePath), func(n *wire.NewImage) *string { return &n.Path }},
	{"login_user", line(0, daemon.MaxLoginUser), func(n *wire.NewImage) *string { return &n.LoginUser }},
	{"login_password", line(0, daemon.MaxImagePassword), func(n *wire.NewImage) *string { return &n.LoginPassword }},
}

func readNewImage(w http.ResponseWriter, r *http.Request) (daemon.NewImage, error) {
	var n wire.NewImage
	if err := readDocument(w, r, &n); err != nil {
		return daemon.NewImage{}, err
	}
	for _, c := range newImageChecks {
		v, err := c.check(*c.value(&n))
		if err != nil {
			return daemon.NewImage{}, invalid("%s %v", c.name, err)
		}
		*c.value(&n) = v
	}
	if !filepath.IsAbs(n.Path) || filepath.Clean(n.Path) != n.Path {
		return daemon.NewImage{}, invalid("path must be absolute, without . or .. or repeated slashes")
	}
	visibility := daemon.Private
	if n.Public {
		visibility = daemon.Public
	}
	return daemon.NewImage{Name: n.Name, Description: n.Description, Visibility: visibility, Path: n.Path,
		LoginUser: n.LoginUser, LoginPassword: n.LoginPassword}, nil
}

func (s *Server) showImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	img, err := s.daemon.Image(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return reply{body: image(img)}, nil
}

func (s *Server) deleteImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	op, err := s.daemon.DeleteImage(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return accepted(id, op), nil
}

func accepted(id string, op daemon.Operation) reply {
	return reply{status: http.StatusAccepted, operation: op.ID, body: wire.Accepted{ID: id, Operation: operation(op)}}
}

// pathID is the {id} of the path. What cannot be an id is not asked for.
func pathID(r *http.Request, noun string) (string, error) {
	id := r.PathValue("id")
	if !idPattern.MatchString(id) {
		return "", &daemon.Error{Code: daemon.NotFound, Message: "no such " + noun}
	}
	return id, nil
}
