package keystone

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// Token is what a token says to whoever can verify it.
type Token struct {
	Caller  daemon.Caller // without From and Request
	Name    string        // the user's
	Issued  time.Time     // zero when the token does not say
	Expires time.Time
}

// Options is what a Family needs. Its functions may be called at the same time.
type Options struct {
	// Verify says what a token says. It fails as package api's own doors do: Unauthorized, or Unavailable.
	Verify func(token string) (Token, error)
	// Issue makes a token for a user whose password was right.
	Issue func(User) (string, error)
	// Users are those who may log in by password, as they are now. nil means nobody.
	Users func() ([]User, error)
	// Region is the catalog's; "" means RegionOne.
	Region string
	// Cyclades puts Synnefo's endpoints into version 2.0's catalog in place of Nova's: one type of service cannot name
	// two dialects in one catalog.
	Cyclades bool
}

// Family is the codec of the identity calls; a [dialect.Family]. Beside its options it keeps how often passwords were
// wrong, in a space that does not grow: an attempt too many for its name or its address is refused with 429, right or
// wrong, and so is one of a name that does not exist.
type Family struct {
	Options
	guard *guard
}

var _ dialect.Family = (*Family)(nil)

// New returns the family. Verify and Issue are required.
func New(opt Options) *Family {
	if opt.Verify == nil || opt.Issue == nil {
		panic("keystone: Verify and Issue are required")
	}
	if opt.Region == "" {
		opt.Region = "RegionOne"
	}
	if opt.Users == nil {
		opt.Users = func() ([]User, error) { return nil, nil }
	}
	return &Family{Options: opt, guard: newGuard()}
}

const prefix = "/identity"

// Speaks is true for "/identity" and everything below it.
func (f *Family) Speaks(path string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// Open is true for the version documents, and for asking for a token.
func (f *Family) Open(method, path string) bool {
	r := routeOf(method, path)
	return r != nil && r.open
}

type route struct {
	method, path string
	open         bool
	serve        func(*Family, *dialect.Request) (dialect.Reply, error)
}

// routes are below the prefix, without a slash at the end: with one they are the same.
var routes = []route{
	{"GET", "", true, (*Family).versions},
	{"GET", "/v3", true, (*Family).version3},
	{"GET", "/v2.0", true, (*Family).version2},
	{"POST", "/v3/auth/tokens", true, (*Family).authenticate3},
	{"GET", "/v3/auth/tokens", false, (*Family).showToken},
	{"DELETE", "/v3/auth/tokens", false, (*Family).revokeToken},
	{"GET", "/v3/auth/projects", false, (*Family).projects},
	{"GET", "/v3/auth/catalog", false, (*Family).catalog},
	{"POST", "/v2.0/tokens", true, (*Family).authenticate2},
	{"GET", "/v2.0/tenants", false, (*Family).tenants},
}

func routeOf(method, path string) *route {
	if method == http.MethodHead {
		method = http.MethodGet // net/http sends no body
	}
	path = strings.TrimSuffix(strings.TrimPrefix(path, prefix), "/")
	for i := range routes {
		if r := &routes[i]; r.method == method && r.path == path {
			return r
		}
	}
	return nil
}

// Serve answers a request.
func (f *Family) Serve(req *dialect.Request) (dialect.Reply, error) {
	path := req.URL.EscapedPath()
	if r := routeOf(req.Method, path); r != nil {
		req.Route = r.method + " " + prefix + r.path
		return r.serve(f, req)
	}
	var allowed []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost} {
		if routeOf(method, path) != nil {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return dialect.Reply{}, &dialect.Refusal{Code: daemon.NotFound, Message: "no such path"}
	}
	list := strings.Join(allowed, ", ")
	no := dialect.Refuse(http.StatusMethodNotAllowed, daemon.Invalid, "this path allows %s", list)
	no.Header = http.Header{"Allow": {list}}
	return dialect.Reply{}, no
}

var statuses = map[daemon.Code]int{
	daemon.Invalid:      http.StatusBadRequest,
	daemon.Unauthorized: http.StatusUnauthorized,
	daemon.Forbidden:    http.StatusForbidden,
	daemon.NotFound:     http.StatusNotFound,
	daemon.Conflict:     http.StatusConflict,
	daemon.Gone:         http.StatusNotFound,
	daemon.Busy:         http.StatusConflict,
	daemon.OverQuota:    http.StatusForbidden,
	daemon.Exhausted:    http.StatusServiceUnavailable,
	daemon.Unsupported:  http.StatusNotImplemented,
	daemon.Unavailable:  http.StatusServiceUnavailable,
}

// Fault is a refusal in keystone's shape.
func (f *Family) Fault(req *dialect.Request, no *dialect.Refusal) dialect.Reply {
	status := no.Status
	if status == 0 {
		status = statuses[no.Code]
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	h := http.Header{}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Keystone uri="+strconv.Quote(req.Base+prefix))
	}
	if no.Code == daemon.Unavailable {
		h.Set("Retry-After", "5")
	}
	p := document(status, object{"error": object{"code": status, "title": http.StatusText(status), "message": no.Message}})
	p.Header = h
	return p
}

// object is a JSON object to be written. Nothing here is large or asked for often.
type object map[string]any

func document(status int, body any) dialect.Reply {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // a programmer's error: all that is written are strings, numbers and lists
	}
	return dialect.Reply{Status: status, MediaType: "application/json", Body: text}
}
