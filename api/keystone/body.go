package keystone

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// readBody reads a body of JSON; one that says that it is something else is refused.
func readBody(req *dialect.Request) ([]byte, error) {
	if given := req.Header.Get("Content-Type"); given != "" {
		if kind, _, err := mime.ParseMediaType(given); err != nil || kind != "application/json" && kind != "text/plain" {
			return nil, dialect.Refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "the Content-Type must be application/json")
		}
	}
	body, err := req.ReadBody()
	return bytes.TrimSpace(body), err
}

// credentials are what a request for a token shows, and what it wants the token for.
type credentials struct {
	token    string // or else a password
	name, id string // of the user; one of them
	password string
	foreign  bool // of a domain that is not here: nobody

	project, projectName string // that the token must be for; "" for any
	nowhere              bool   // for something that is no project
}

// defaultDomain is the only one.
const defaultDomain = "default"

// domainIs says whether an object names the domain that there is, or none.
func domainIs(o dialect.Object, member string) (bool, error) {
	if !has(o, member) {
		return true, nil
	}
	domain, err := o.Object(member)
	if err != nil {
		return false, err
	}
	id, err := text(domain, "id")
	if err != nil {
		return false, err
	}
	name, err := text(domain, "name")
	return err == nil && (id == "" || id == defaultDomain) && (name == "" || name == "Default" || name == defaultDomain), err
}

// has says whether a member is there and not null.
func has(o dialect.Object, member string) bool {
	value, ok := o[member]
	return ok && string(value) != "null"
}

// text is a string, or "" when it is not there.
func text(o dialect.Object, member string) (string, error) {
	var s string
	if has(o, member) && json.Unmarshal(o[member], &s) != nil {
		return "", dialect.Invalid("%s must be a string", member)
	}
	return s, nil
}

// texts reads some strings of an object.
func texts(o dialect.Object, into map[string]*string) error {
	for member, to := range into {
		var err error
		if *to, err = text(o, member); err != nil {
			return err
		}
	}
	return nil
}

// parseAuth opens what the request of either version is wrapped in.
func parseAuth(body []byte) (dialect.Object, error) {
	top, err := dialect.ParseObject(body)
	if err != nil {
		return nil, err
	}
	return top.Object("auth")
}

// parse3 reads version 3's request. Exactly one method is taken: with two, both would have to be right.
func parse3(body []byte) (credentials, error) {
	c := credentials{}
	auth, err := parseAuth(body)
	if err != nil {
		return c, err
	}
	identity, err := auth.Object("identity")
	if err != nil {
		return c, err
	}
	var methods []string
	if json.Unmarshal(identity["methods"], &methods) != nil || len(methods) != 1 {
		return c, dialect.Invalid("methods must be a list of one")
	}
	if has(auth, "scope") {
		if err := c.scope(auth); err != nil {
			return c, err
		}
	}
	switch methods[0] {
	case "token":
		return c, c.tokenOf(identity)
	case "password":
		return c, c.user(identity)
	}
	return c, dialect.Refuse(http.StatusUnauthorized, daemon.Unauthorized, "the method must be password or token")
}

func (c *credentials) user(identity dialect.Object) error {
	method, err := identity.Object("password")
	if err != nil {
		return err
	}
	user, err := method.Object("user")
	if err != nil {
		return err
	}
	ours, err := domainIs(user, "domain")
	if err != nil {
		return err
	}
	c.foreign = !ours
	if err := texts(user, map[string]*string{"name": &c.name, "id": &c.id, "password": &c.password}); err != nil {
		return err
	}
	return c.whole("user must have a name or an id, and a password")
}

// whole refuses what shows neither a token nor a user and a password.
func (c *credentials) whole(message string) error {
	if c.token == "" && (c.password == "" || (c.name == "") == (c.id == "")) {
		return dialect.Invalid("%s", message)
	}
	return nil
}

// scope reads what the token is for. "unscoped" leaves the choice to us, and we know one project for each user.
func (c *credentials) scope(auth dialect.Object) error {
	if string(auth["scope"]) == `"unscoped"` {
		return nil
	}
	scope, err := auth.Object("scope")
	if err != nil {
		return err
	}
	if !has(scope, "project") {
		c.nowhere = len(scope) > 0 // a domain, or the system
		return nil
	}
	project, err := scope.Object("project")
	if err != nil {
		return err
	}
	ours, err := domainIs(project, "domain")
	c.nowhere = !ours
	if err != nil {
		return err
	}
	return texts(project, map[string]*string{"id": &c.project, "name": &c.projectName})
}

// parse2 reads version 2.0's request.
func parse2(body []byte) (credentials, error) {
	c := credentials{}
	auth, err := parseAuth(body)
	if err != nil {
		return c, err
	}
	if err := texts(auth, map[string]*string{"tenantId": &c.project, "tenantName": &c.projectName}); err != nil {
		return c, err
	}
	for _, way := range []struct{ member, password string }{{"passwordCredentials", "password"}, {"RAX-KSKEY:apiKeyCredentials", "apiKey"}} {
		if !has(auth, way.member) {
			continue
		}
		shown, err := auth.Object(way.member)
		if err != nil {
			return c, err
		}
		if err := texts(shown, map[string]*string{"username": &c.name, "userId": &c.id, way.password: &c.password}); err != nil {
			return c, err
		}
		return c, c.whole(way.member + " must have username and " + way.password)
	}
	if !has(auth, "token") {
		return c, dialect.Invalid("auth must have passwordCredentials, RAX-KSKEY:apiKeyCredentials or token")
	}
	return c, c.tokenOf(auth)
}

// tokenOf reads a token that is shown.
func (c *credentials) tokenOf(o dialect.Object) error {
	shown, err := o.Object("token")
	if err != nil {
		return err
	}
	if c.token, err = text(shown, "id"); err == nil && c.token == "" {
		err = dialect.Invalid("token must have an id")
	}
	return err
}
