package nova_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/nova"
	"github.com/capsuled/capsuled/daemon"
)

const (
	project = "6f70656e737461636b20342065766572"
	base    = "http://openstack.example.com"
)

// host is a family before a fake, called as package api calls it.
type host struct {
	*fake
	*nova.Family
}

func start(t *testing.T) *host {
	f := newFake(t)
	return &host{f, nova.New(f)}
}

type answer struct {
	status int
	header http.Header
	body   string
	route  string
}

// as calls as the one that token names; nobody where it is "".
func (h *host) as(t *testing.T, token, method, target, body string, headers ...string) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, base+target, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	if !h.Speaks(r.URL.Path) {
		t.Fatalf("%s is not the family's", r.URL.Path)
	}
	req := &dialect.Request{Request: r, ID: "REQUEST", Base: base}
	r.Body = http.MaxBytesReader(nil, r.Body, dialect.MaxBody)
	p, err := dialect.Reply{}, error(&dialect.Refusal{Status: 401, Code: daemon.Unauthorized, Message: "no identity"})
	if open := h.Open(method, r.URL.Path); token != "" || open {
		if !open {
			req.Caller = daemon.Caller{GUID: token, Project: project, From: "192.0.2.1", Request: "REQUEST"}
		}
		p, err = h.Serve(req)
	}
	if err != nil {
		no := refusal(err)
		p = h.Fault(req, no)
		for name, values := range no.Header {
			p.Header[name] = values
		}
	}
	if p.Status == 0 {
		p.Status = http.StatusOK
	}
	if p.MediaType != "" {
		p.Header.Set("Content-Type", p.MediaType)
	}
	if p.Status == http.StatusNoContent && (len(p.Body) > 0 || p.MediaType != "") {
		t.Errorf("%s %s: 204 with a body", method, target)
	}
	return answer{p.Status, p.Header, string(p.Body), req.Route}
}

func refusal(err error) *dialect.Refusal {
	if no, ok := errors.AsType[*dialect.Refusal](err); ok {
		return no
	}
	if e, ok := errors.AsType[*daemon.Error](err); ok {
		return &dialect.Refusal{Code: e.Code, Message: e.Message}
	}
	return &dialect.Refusal{Code: daemon.Internal, Message: "internal error"}
}

func (h *host) call(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	return h.as(t, "alice", method, target, body, headers...)
}

// fault is the name, code and message of a fault, and fails the test when the body has any other shape.
func (a answer) fault(t *testing.T) (name string, message, retry string) {
	t.Helper()
	var faults map[string]map[string]any
	if err := json.Unmarshal([]byte(a.body), &faults); err != nil || len(faults) != 1 {
		t.Fatalf("no fault: %v: %s", err, a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/json; charset=UTF-8" {
		t.Errorf("Content-Type %q", got)
	}
	for n, members := range faults {
		name = n
		if members["code"] != float64(a.status) {
			t.Errorf("code %v with status %d", members["code"], a.status)
		}
		message, _ = members["message"].(string)
		retry, _ = members["retryAfter"].(string)
		if message == "" || len(members) > 3 || len(members) == 3 && retry == "" {
			t.Errorf("fault %s", a.body)
		}
	}
	return name, message, retry
}
