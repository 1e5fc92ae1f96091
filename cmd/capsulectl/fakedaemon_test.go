package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/wire"
)

// fakeVersion is what the Server header names.
const fakeVersion = "9.8.7-test"

// fakeDaemon is a small stateful stand-in for capsuled. It keeps capsules, images and operations, refuses what the daemon
// refuses (unknown fields and parameters, wrong content types, wrong states), and moves an operation on by one step each
// time somebody asks for it, so that tests need no clock. It runs nothing, and may be used by several goroutines.
type fakeDaemon struct {
	mux *http.ServeMux

	mu       sync.Mutex // guards all below
	token    string     // if not empty, what every call but the health check must bear
	capsules []*fakeCapsule
	images   []*wire.Image
	bytes    map[string][]byte // of images, by id
	cuts     []int             // after how many bytes the next transfers are cut
	ops      []*fakeOperation  // oldest first
	made     int
	held     bool
	polled   chan struct{}
	failures map[string]failure // by kind of operation
	refusals []wire.Problem
	calls    []string
	answers  map[string]string // JSON, by call
}

type fakeCapsule struct {
	wire.Status
	own bool
}

type failure struct{ step, code, cause string }

// newFakeDaemon returns one without capsules or images.
func newFakeDaemon() *fakeDaemon {
	s := &fakeDaemon{mux: http.NewServeMux(), polled: make(chan struct{}, 1), failures: map[string]failure{},
		answers: map[string]string{}, bytes: map[string][]byte{}}
	s.routeImages()
	s.routeSecure()
	s.mux.HandleFunc("POST /createvm", s.form(s.create, "imageid", "loginusername", "loginpassword", "memory", "vcpu",
		"type", "consent", "full_access", "title", "desc_nature", "desc_requirement", "desc_links", "desc_outside_data",
		"rr_data_files", "rr_result_usage"))
	s.mux.HandleFunc("POST /launchvm", s.form(s.launch, "vmid"))
	s.mux.HandleFunc("POST /stopvm", s.form(s.stop, "vmid"))
	s.mux.HandleFunc("POST /deletevm", s.form(s.remove, "vmid"))
	s.mux.HandleFunc("POST /show", s.form(s.show, "vmid"))
	s.mux.HandleFunc("GET /listvms", s.list)
	s.mux.HandleFunc("GET /v1/operations", s.listOperations)
	s.mux.HandleFunc("GET /v1/operations/{id}", s.showOperation)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, wire.Health{Status: "ok"}) })
	return s
}

// ServeHTTP checks identity and what tests have ordered, then serves the call with the state locked.
func (s *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	w.Header().Set("Server", "capsuled/"+fakeVersion)
	w.Header().Set("X-Request-Id", "req-7")
	open := r.URL.Path == "/healthz"
	answer, answered := s.answers[r.Method+" "+r.URL.RequestURI()]
	switch {
	case !open && s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
		refuse(w, r, "unauthorized", "no identity")
	case !open && len(s.refusals) > 0:
		refuse(w, r, s.refusals[0].Code, s.refusals[0].Message)
		s.refusals = s.refusals[1:]
	case answered:
		reply(w, http.StatusOK, json.RawMessage(answer))
	default:
		s.mux.ServeHTTP(w, r)
	}
}

// Refuse makes the next call fail with code and message.
func (s *fakeDaemon) Refuse(code, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, wire.Problem{Code: code, Message: message})
}

// Calls returns the calls since it was last asked, as "METHOD /path".
func (s *fakeDaemon) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// nextID returns ids that share a long beginning, so that prefixes can be ambiguous.
func (s *fakeDaemon) nextID(letter string) string {
	s.made++
	return fmt.Sprintf("%s%07x-0000-4000-8000-000000000000", letter, s.made)
}

// form decodes the capsule dialect as strictly as the daemon does.
func (s *fakeDaemon) form(next func(http.ResponseWriter, *http.Request, url.Values), allowed ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if kind != "application/x-www-form-urlencoded" {
			refuse(w, r, "invalid", "want a form, not "+kind)
			return
		}
		if r.ParseForm() != nil || r.URL.RawQuery != "" {
			refuse(w, r, "invalid", "bad form")
			return
		}
		for _, name := range slices.Sorted(maps.Keys(r.PostForm)) {
			values := r.PostForm[name]
			if !slices.Contains(allowed, name) || len(values) != 1 || !utf8.ValidString(values[0]) {
				refuse(w, r, "invalid", "bad parameter "+name)
				return
			}
		}
		next(w, r, r.PostForm)
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// statuses of the two dialects, where they differ from 400 and 500.
var (
	nativeStatus = map[string]int{"invalid": 400, "unauthorized": 401, "forbidden": 403, "over_quota": 403, "not_found": 404,
		"conflict": 409, "gone": 409, "busy": 409, "unsupported": 501, "unavailable": 503, "exhausted": 507, "internal": 500}
	capsuleStatus = map[string]int{"unauthorized": 401, "exhausted": 500, "internal": 500, "unsupported": 501, "unavailable": 503}
)

// refuse answers in the dialect of the path.
func refuse(w http.ResponseWriter, r *http.Request, code, message string) {
	w.Header().Set(wire.ErrorCodeHeader, code)
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		reply(w, nativeStatus[code], wire.Problem{Code: code, Message: message, Request: w.Header().Get("X-Request-Id")})
		return
	}
	status := capsuleStatus[code]
	if status == 0 {
		status = http.StatusBadRequest
	}
	reply(w, status, wire.Error{StatusCode: status, Description: message})
}
