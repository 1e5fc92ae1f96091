package synnefo_test

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/synnefo"
	"github.com/capsuled/capsuled/daemon"
)

// edition is what a test must know of a version to speak to it.
type edition struct {
	name, images, meta string
	family             int
}

var (
	s1       = edition{"S1", "/api/v1.1/images", "meta", 0}
	s2       = edition{"S2", "/compute/v2.0/images", "metadata", 1}
	editions = []edition{s1, s2}
)

// path is a path below /images, with META for what metadata is called.
func (e edition) path(below string) string {
	return e.images + strings.Replace(below, "META", e.meta, 1)
}

// host sends requests to the families as package api does, without a network.
type host struct {
	t        testing.TB
	families []dialect.Family
	caller   daemon.Caller
}

func newHost(t testing.TB, f *fake) *host {
	return &host{t: t, families: synnefo.New(synnefo.Options{Daemon: f}), caller: owner}
}

// ask sends one request to whichever family speaks for the path. The target goes through net/http's own parser.
func (h *host) ask(method, target, body string, headers ...string) answer {
	h.t.Helper()
	text := method + " " + target + " HTTP/1.1\r\nHost: images.example:8774\r\n\r\n"
	hr, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, target, err)
	}
	hr.Body = http.NoBody
	if body != "" {
		hr.Body = http.MaxBytesReader(nil, readCloser{strings.NewReader(body)}, dialect.MaxBody)
	}
	for i := 0; i < len(headers); i += 2 {
		hr.Header.Add(headers[i], headers[i+1])
	}
	r := &dialect.Request{Request: hr.WithContext(h.t.Context()), ID: "r-1", Base: "http://images.example:8774"}
	for _, f := range h.families {
		if !f.Speaks(hr.URL.Path) {
			continue
		}
		if !f.Open(method, hr.URL.Path) {
			r.Caller = h.caller
		}
		p, err := f.Serve(r)
		if err != nil {
			no := refusalOf(err)
			p = f.Fault(r, no)
			maps.Copy(p.Header, no.Header)
		}
		if p.Status == 0 {
			p.Status = http.StatusOK
		}
		return answer{h.t, method + " " + target, p, r.Route}
	}
	h.t.Fatalf("%s %s: nobody speaks for it", method, target)
	return answer{}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func refusalOf(err error) *dialect.Refusal {
	if no, ok := errors.AsType[*dialect.Refusal](err); ok {
		return no
	}
	if e, ok := errors.AsType[*daemon.Error](err); ok {
		return &dialect.Refusal{Code: e.Code, Message: e.Message}
	}
	return &dialect.Refusal{Code: daemon.Internal, Message: "internal error"}
}

// put sends JSON.
func (h *host) put(method, target, body string) answer {
	h.t.Helper()
	return h.ask(method, target, body, "Content-Type", "application/json")
}

// answer is what came back.
type answer struct {
	t     testing.TB
	asked string
	dialect.Reply
	route string
}

// is wants a status, and JSON that is the same as want; "" wants no body.
func (a answer) is(status int, want string) {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: %d, want %d: %s", a.asked, a.Status, status, a.Body)
	}
	if want == "" {
		if len(a.Body) != 0 || a.MediaType != "" {
			a.t.Errorf("%s: %s %q, want no body", a.asked, a.MediaType, a.Body)
		}
		return
	}
	if a.MediaType != "application/json; charset=UTF-8" {
		a.t.Errorf("%s: %s", a.asked, a.MediaType)
	}
	if diff := cmp.Diff(decoded(a.t, want), decoded(a.t, string(a.Body))); diff != "" {
		a.t.Errorf("%s (-want +got):\n%s", a.asked, diff)
	}
}

func decoded(t testing.TB, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// isXML wants a status and exactly this document after the declaration.
func (a answer) isXML(status int, want string) {
	a.t.Helper()
	if a.Status != status || a.MediaType != "application/xml; charset=UTF-8" {
		a.t.Fatalf("%s: %d %s: %s", a.asked, a.Status, a.MediaType, a.Body)
	}
	if diff := cmp.Diff(xml.Header+want, string(a.Body)); diff != "" {
		a.t.Errorf("%s (-want +got):\n%s", a.asked, diff)
	}
}

// fault is what a fault says, in either serialization.
type fault struct {
	Name    string
	Space   string
	Code    int
	Message string
	Details *string
}

// fault reads the body as a fault.
func (a answer) fault() fault {
	a.t.Helper()
	if strings.HasPrefix(a.MediaType, "application/xml") {
		var in struct {
			XMLName xml.Name
			Code    int     `xml:"code,attr"`
			Message string  `xml:"message"`
			Details *string `xml:"details"`
		}
		if err := xml.Unmarshal(a.Body, &in); err != nil {
			a.t.Fatalf("%s: %v: %s", a.asked, err, a.Body)
		}
		return fault{in.XMLName.Local, in.XMLName.Space, in.Code, in.Message, in.Details}
	}
	var in map[string]struct {
		Code    int
		Message string
		Details *string
	}
	if err := json.Unmarshal(a.Body, &in); err != nil || len(in) != 1 {
		a.t.Fatalf("%s: %v: %s", a.asked, err, a.Body)
	}
	for name, f := range in {
		return fault{name, "", f.Code, f.Message, f.Details}
	}
	return fault{}
}

// isFault wants a fault of this status and name.
func (a answer) isFault(status int, name string) {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: %d, want %d: %s", a.asked, a.Status, status, a.Body)
	}
	f := a.fault()
	if f.Name != name || f.Code != status || f.Message == "" || f.Details == nil || *f.Details != "" {
		a.t.Errorf("%s: %+v, want %s %d: %s", a.asked, f, name, status, a.Body)
	}
	if wantSpace := "http://docs.openstack.org/compute/api/v1.1"; strings.HasPrefix(a.MediaType, "application/xml") && f.Space != wantSpace {
		a.t.Errorf("%s: namespace %q", a.asked, f.Space)
	}
}

const (
	alpha = "11111111-aaaa-4000-8000-000000000001"
	beta  = "22222222-bbbb-4000-8000-000000000002"
	gamma = "33333333-cccc-4000-8000-000000000003"
)

var epoch = time.Date(2026, 3, 1, 12, 30, 45, 678000000, time.FixedZone("CET", 3600))

// image is an ACTIVE image of owner's.
func image(id, name string, change func(*daemon.Image)) daemon.Image {
	m := daemon.Image{ID: id, Name: name, State: daemon.ImageActive, Visibility: daemon.Private, Owner: owner.GUID,
		CreatedAt: epoch, UpdatedAt: epoch.Add(time.Minute), Metadata: map[string]string{}}
	if change != nil {
		change(&m)
	}
	return m
}

func with(items map[string]string) func(*daemon.Image) {
	return func(m *daemon.Image) { m.Metadata = items }
}

func in(state daemon.ImageState) func(*daemon.Image) {
	return func(m *daemon.Image) { m.State = state }
}

// each runs a test on both versions.
func each(t *testing.T, test func(*testing.T, edition)) {
	for _, e := range editions {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}
