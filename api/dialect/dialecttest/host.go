// Package dialecttest stands in for the server around a family, for the family's own tests: identity, limits of bodies,
// refusals, and the sending of replies, as package api does them.
package dialecttest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// Host asks a family. Tokens are the guids of callers; "admin" is an administrator.
type Host struct {
	T      testing.TB
	Family dialect.Family
	// Patient counts how often a body was taken without limits.
	Patient int
}

// Answer is a reply as it was sent.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Route  string
}

// Want checks the status and finds a piece of the body.
func (a Answer) Want(t testing.TB, status int, piece string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Body, piece) {
		t.Errorf("%d %s, want %d with %q", a.Status, a.Body, status, piece)
	}
}

// Decode is what the body says.
func Decode[T any](t testing.TB, a Answer) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil {
		t.Fatalf("%d %s: %v", a.Status, a.Body, err)
	}
	return v
}

// Ask sends a request as alice, unless headers (name, value, ...) say otherwise; a value "" leaves one out.
func (h *Host) Ask(method, target, body string, headers ...string) Answer {
	h.T.Helper()
	r := httptest.NewRequest(method, "http://host.example"+target, strings.NewReader(body))
	r.Header.Set("X-Auth-Token", "alice")
	for n := 0; n+1 < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
		if headers[n+1] == "" {
			r.Header.Del(headers[n])
		}
	}
	return h.Do(r)
}

// Do sends a request.
func (h *Host) Do(r *http.Request) Answer {
	h.T.Helper()
	if !h.Family.Speaks(r.URL.Path) {
		h.T.Fatalf("%s is not this family's", r.URL.Path)
	}
	w := httptest.NewRecorder()
	raw := r.Body
	req := &dialect.Request{Request: r, ID: "REQUEST", Base: "http://" + r.Host}
	req.Body = http.MaxBytesReader(w, raw, dialect.MaxBody)
	req.Patient = func() (context.Context, io.Reader) {
		h.Patient++
		return r.Context(), raw
	}
	p, err := h.serve(req)
	if err != nil {
		no := refusalOf(err)
		p = h.Family.Fault(req, no)
		for k, v := range no.Header {
			if p.Header == nil {
				p.Header = http.Header{}
			}
			p.Header[k] = v
		}
	}
	h.send(w, r, p)
	return Answer{Status: w.Code, Header: w.Header(), Body: w.Body.String(), Route: req.Route}
}

func (h *Host) serve(req *dialect.Request) (dialect.Reply, error) {
	if !h.Family.Open(req.Method, req.URL.Path) {
		guid := req.Header.Get("X-Auth-Token")
		if bearer, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
			guid = bearer
		}
		if guid == "" {
			no := dialect.Refuse(http.StatusUnauthorized, daemon.Unauthorized, "no identity")
			no.Header = http.Header{"Www-Authenticate": {"Bearer"}}
			return dialect.Reply{}, no
		}
		req.Caller = daemon.Caller{GUID: guid}
		if guid == "admin" {
			req.Caller.Roles = []string{daemon.RoleAdmin}
		}
	}
	return h.Family.Serve(req)
}

func refusalOf(err error) *dialect.Refusal {
	no := &dialect.Refusal{Code: daemon.Internal}
	if f, ok := errors.AsType[*dialect.Refusal](err); ok {
		no = f
	} else if e, ok := errors.AsType[*daemon.Error](err); ok {
		no = &dialect.Refusal{Code: e.Code, Message: e.Message}
	}
	if no.Code == daemon.Internal {
		no.Message = "internal error"
	}
	return no
}

func (h *Host) send(w *httptest.ResponseRecorder, r *http.Request, p dialect.Reply) {
	for k, v := range p.Header {
		w.Header()[k] = v
	}
	if p.MediaType != "" {
		w.Header().Set("Content-Type", p.MediaType)
	}
	if p.Operation != "" {
		w.Header().Set("X-Operation", p.Operation)
	}
	if p.Stream != nil {
		if p.Body != nil || p.Status != 0 {
			h.T.Error("a stream with a body or a status")
		}
		p.Stream(w, r)
		return
	}
	if p.Status == http.StatusNoContent && len(p.Body) > 0 {
		h.T.Error("204 with a body")
	}
	if p.Status == 0 {
		p.Status = http.StatusOK
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body)
}
