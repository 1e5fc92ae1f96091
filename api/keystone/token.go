package keystone

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// granted is a token with what it says, and how it was got.
type granted struct {
	Token
	text   string
	method string
}

// grant gives out a token for credentials.
func (f *Family) grant(req *dialect.Request, c credentials) (granted, error) {
	g := granted{text: c.token, method: "token"}
	if c.token == "" {
		g.method = "password"
		users, err := f.Users()
		if err != nil {
			return g, &dialect.Refusal{Code: daemon.Unavailable, Message: "passwords cannot be checked now", Err: err}
		}
		fits := func(u User) bool {
			return !c.foreign && (c.name != "" && u.Name == c.name || c.id != "" && u.GUID == c.id)
		}
		user, err := f.guard.check(req.Context(), users, c.name+"\x00"+c.id, c.password, addressOf(req.Request), fits)
		if err != nil {
			return g, err
		}
		if g.text, err = f.Issue(user); err != nil {
			return g, err
		}
	}
	var err error
	if g.Token, err = f.Verify(g.text); err != nil {
		return g, err
	}
	return g, f.scoped(g, c)
}

// scoped refuses a project that is not the token's. A token is for one, and another would not make it for another.
func (f *Family) scoped(g granted, c credentials) error {
	own := projectOf(g.Caller)
	if c.nowhere || c.project != "" && c.project != own || c.projectName != "" && c.projectName != own {
		return &dialect.Refusal{Code: daemon.Unauthorized, Message: "the user has no role there; the project must be the user's own, or not be named"}
	}
	return nil
}

func projectOf(c daemon.Caller) string {
	if c.Project != "" {
		return c.Project
	}
	return c.GUID
}

// roles are those of the token, after the one that everybody has.
func roles(c daemon.Caller) []object {
	list := []object{}
	for _, role := range append([]string{"member"}, c.Roles...) {
		list = append(list, object{"id": role, "name": role})
	}
	return list
}

const timeFormat = "2006-01-02T15:04:05.000000Z"

func (f *Family) authenticate3(req *dialect.Request) (dialect.Reply, error) {
	body, err := readBody(req)
	if err != nil {
		return dialect.Reply{}, err
	}
	c, err := parse3(body)
	if err != nil {
		return dialect.Reply{}, err
	}
	g, err := f.grant(req, c)
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.tokenReply(req, http.StatusCreated, g), nil
}

func (f *Family) tokenReply(req *dialect.Request, status int, g granted) dialect.Reply {
	sum := sha256.Sum256([]byte(g.text))
	domain := object{"id": defaultDomain, "name": "Default"}
	project := projectOf(g.Caller)
	issued := g.Issued
	if issued.IsZero() {
		issued = time.Now()
	}
	token := object{
		"methods":    []string{g.method},
		"user":       object{"id": g.Caller.GUID, "name": g.Name, "domain": domain, "password_expires_at": nil},
		"project":    object{"id": project, "name": project, "domain": domain},
		"is_domain":  false,
		"roles":      roles(g.Caller),
		"issued_at":  issued.UTC().Format(timeFormat),
		"expires_at": g.Expires.UTC().Format(timeFormat),
		"audit_ids":  []string{base64.RawURLEncoding.EncodeToString(sum[:16])},
	}
	if !req.URL.Query().Has("nocatalog") {
		token["catalog"] = f.catalog3(req.Base)
	}
	p := document(status, object{"token": token})
	p.Header = http.Header{"X-Subject-Token": {g.text}, "Vary": {"X-Auth-Token"}}
	return p
}

// subject is the token that a call is about. Others' tokens are for administrators: who verified one for somebody else
// would learn who they are.
func (f *Family) subject(req *dialect.Request) (granted, error) {
	g := granted{text: req.Header.Get("X-Subject-Token"), method: "token"}
	if g.text == "" {
		return g, dialect.Invalid("X-Subject-Token is missing")
	}
	var err error
	g.Token, err = f.Verify(g.text)
	if e, ok := errors.AsType[*daemon.Error](err); ok && e.Code == daemon.Unauthorized {
		return g, &dialect.Refusal{Code: daemon.NotFound, Message: "the token is not valid, or no longer"}
	}
	if err == nil && g.Caller.GUID != req.Caller.GUID && !req.Caller.HasRole(daemon.RoleAdmin) {
		err = &dialect.Refusal{Code: daemon.Forbidden, Message: "the token is another user's"}
	}
	return g, err
}

func (f *Family) showToken(req *dialect.Request) (dialect.Reply, error) {
	g, err := f.subject(req)
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.tokenReply(req, http.StatusOK, g), nil
}

// revokeToken revokes nothing: see the package's documentation.
func (f *Family) revokeToken(req *dialect.Request) (dialect.Reply, error) {
	_, err := f.subject(req)
	return dialect.Reply{Status: http.StatusNoContent}, err
}

func (f *Family) projects(req *dialect.Request) (dialect.Reply, error) {
	project := projectOf(req.Caller)
	self := req.Base + prefix + "/v3/auth/projects"
	return document(http.StatusOK, object{
		"projects": []object{{"id": project, "name": project, "domain_id": defaultDomain, "enabled": true, "is_domain": false,
			"links": object{"self": req.Base + prefix + "/v3/projects/" + project}}},
		"links": object{"self": self, "next": nil, "previous": nil}}), nil
}

func (f *Family) catalog(req *dialect.Request) (dialect.Reply, error) {
	return document(http.StatusOK, object{"catalog": f.catalog3(req.Base), "links": object{"self": req.Base + prefix + "/v3/auth/catalog"}}), nil
}

// authenticate2 answers an empty body with the catalog alone, which is public: kamaki asks for it so.
func (f *Family) authenticate2(req *dialect.Request) (dialect.Reply, error) {
	body, err := readBody(req)
	if err != nil {
		return dialect.Reply{}, err
	}
	if len(body) == 0 {
		return document(http.StatusOK, object{"access": object{"serviceCatalog": f.catalog2(req.Base)}}), nil
	}
	c, err := parse2(body)
	if err != nil {
		return dialect.Reply{}, err
	}
	g, err := f.grant(req, c)
	if err != nil {
		return dialect.Reply{}, err
	}
	project := projectOf(g.Caller)
	return document(http.StatusOK, object{"access": object{
		"token": object{"id": g.text, "expires": g.Expires.UTC().Truncate(time.Second).Format(time.RFC3339),
			"tenant": object{"id": project, "name": project}},
		"user":           object{"id": g.Caller.GUID, "name": g.Name, "roles": roles(g.Caller), "roles_links": []object{}},
		"serviceCatalog": f.catalog2(req.Base),
	}}), nil
}

func (f *Family) tenants(req *dialect.Request) (dialect.Reply, error) {
	project := projectOf(req.Caller)
	return document(http.StatusOK, object{
		"tenants":       []object{{"id": project, "name": project, "enabled": true, "description": nil}},
		"tenants_links": []object{}}), nil
}
