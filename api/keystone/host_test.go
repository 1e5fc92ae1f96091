package keystone_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/keystone"
	"github.com/capsuled/capsuled/daemon"
)

const base = "http://h.example"

var expiry = time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("CET", 3600))

// host is a family with two users and the tokens that it gave out, called as package api calls it.
type host struct {
	*keystone.Family
	from string // where requests come from

	mu     sync.Mutex // guards what follows
	tokens map[string]keystone.Token
	users  []keystone.User
	fail   error // of Users
}

func start(t *testing.T, change func(*keystone.Options)) *host {
	t.Helper()
	h := &host{from: "192.0.2.1:1234", tokens: map[string]keystone.Token{}}
	for _, u := range []keystone.User{
		{Name: "alice", GUID: "guid-a", Email: "a@example.org", Project: "books", Roles: []string{"admin"}},
		{Name: "bob", GUID: "guid-b"},
	} {
		hash, err := bcrypt.GenerateFromPassword([]byte(u.Name+"-password"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		u.Hash = hash
		h.users = append(h.users, u)
	}
	long, err := bcrypt.GenerateFromPassword([]byte(strings.Repeat("p", 72)), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h.users = append(h.users, keystone.User{Name: "long", GUID: "guid-l", Hash: long})
	h.tokens["TOKEN-ALICE"] = keystone.Token{Caller: daemon.Caller{GUID: "guid-a", Project: "books", Roles: []string{"admin"}}, Name: "alice", Issued: expiry.Add(-time.Hour), Expires: expiry}
	h.tokens["TOKEN-BOB"] = keystone.Token{Caller: daemon.Caller{GUID: "guid-b"}, Name: "bob", Expires: expiry}
	opt := keystone.Options{
		Verify: func(token string) (keystone.Token, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if said, ok := h.tokens[token]; ok {
				return said, nil
			}
			return keystone.Token{}, &daemon.Error{Code: daemon.Unauthorized, Message: "the token is not valid"}
		},
		Issue: func(u keystone.User) (string, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.tokens["NEW-"+u.Name] = keystone.Token{Caller: daemon.Caller{GUID: u.GUID, Email: u.Email, Project: u.Project, Roles: u.Roles},
				Name: u.Name, Issued: expiry.Add(-time.Hour), Expires: expiry}
			return "NEW-" + u.Name, nil
		},
		Users: func() ([]keystone.User, error) { return h.users, h.fail },
	}
	if change != nil {
		change(&opt)
	}
	h.Family = keystone.New(opt)
	return h
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (h *host) call(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, base+target, strings.NewReader(body))
	r.RemoteAddr = h.from
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	if !h.Speaks(r.URL.Path) {
		t.Fatalf("%s is not the family's", target)
	}
	req := &dialect.Request{Request: r, ID: "REQUEST", Base: base}
	r.Body = http.MaxBytesReader(nil, r.Body, dialect.MaxBody)
	var p dialect.Reply
	var err error
	if !h.Open(method, r.URL.Path) {
		var said keystone.Token
		said, err = h.Verify(r.Header.Get("X-Auth-Token"))
		req.Caller = said.Caller
	}
	if err == nil {
		p, err = h.Serve(req)
	}
	if err != nil {
		no, ok := errors.AsType[*dialect.Refusal](err)
		if e, is := errors.AsType[*daemon.Error](err); !ok && is {
			no = &dialect.Refusal{Code: e.Code, Message: e.Message}
		} else if !ok {
			no = &dialect.Refusal{Code: daemon.Internal, Message: "internal"}
		}
		p = h.Fault(req, no)
		for name, values := range no.Header {
			p.Header[name] = values
		}
		checkError(t, p)
	}
	if p.Status == 0 {
		p.Status = 200
	}
	return answer{p.Status, p.Header, string(p.Body)}
}

// checkError fails when a refusal has not keystone's shape.
func checkError(t *testing.T, p dialect.Reply) {
	t.Helper()
	var got struct {
		Error struct {
			Code           int
			Title, Message string
		}
	}
	if err := json.Unmarshal(p.Body, &got); err != nil || got.Error.Code != p.Status || got.Error.Title != http.StatusText(p.Status) ||
		got.Error.Message == "" || p.MediaType != "application/json" {
		t.Errorf("%v %d %s", err, p.Status, p.Body)
	}
	if (p.Status == 401) != (p.Header.Get("WWW-Authenticate") == `Keystone uri="`+base+`/identity"`) {
		t.Errorf("%d with %v", p.Status, p.Header)
	}
}

const (
	tokens3, tokens2 = "/identity/v3/auth/tokens", "/identity/v2.0/tokens"
)

// password3 is a request of version 3 for a user's password.
func password3(user, password string) string {
	return `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"` + user + `","domain":{"id":"default"},"password":"` + password + `"}}}}}`
}

func password2(user, password string) string {
	return `{"auth":{"passwordCredentials":{"username":"` + user + `","password":"` + password + `"}}}`
}
