package synnefo

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
)

// document is something that a reply is about, in each serialization.
type document interface {
	json(*version) any
	xml(*markup)
}

// serialization is what a reply is written in.
type serialization string

const (
	inJSON serialization = "application/json"
	inXML  serialization = "application/xml"
	inAtom serialization = "application/atom+xml" // version documents of 1.1 alone
)

// serializations are by the word that a suffix or ?format= has for them.
var serializations = map[string]serialization{"json": inJSON, "xml": inXML, "atom": inAtom}

// serialization chooses in this order: the query, the suffix of the path, the first entry of Accept that names one
// exactly, whatever its q is (images contract, section 5.2). Nothing that a caller sends is an error here: faults are
// written in what this chooses.
func (v *version) serialization(r *http.Request) serialization {
	_, document := v.documents[r.URL.Path]
	writes := func(s serialization) bool { return s == inJSON || s == inXML || s == inAtom && document && v.atom }

	if v.formatQuery {
		if s := serializations[last(r.URL.Query(), "format")]; s == inJSON || s == inXML {
			return s
		}
	}
	if dot := strings.LastIndexByte(r.URL.Path, '.'); dot >= 0 {
		if s := serializations[r.URL.Path[dot+1:]]; writes(s) {
			return s
		}
	}
	for _, header := range r.Header.Values("Accept") {
		for entry := range strings.SplitSeq(header, ",") {
			name, _, _ := strings.Cut(entry, ";")
			if s := serialization(strings.TrimSpace(name)); writes(s) {
				return s
			}
		}
	}
	return inJSON
}

// last is the last value of a parameter that may be repeated.
func last(q url.Values, name string) string {
	if given := q[name]; len(given) > 0 {
		return given[len(given)-1]
	}
	return ""
}

// reply writes a document in what the request chooses.
func (v *version) reply(r *dialect.Request, status int, d document) (dialect.Reply, error) {
	s := v.serialization(r.Request)
	p := dialect.Reply{Status: status, Header: headers(), MediaType: string(s) + "; charset=UTF-8"}
	switch s {
	case inXML:
		p.Body = marked(d.xml)
	case inAtom:
		p.Body = marked(func(m *markup) { v.feed(m, r.Base) })
	default:
		body, err := json.Marshal(d.json(v))
		if err != nil {
			return dialect.Reply{}, err
		}
		p.Body = body
	}
	return p, nil
}

// empty is a reply without a body.
func empty(status int) dialect.Reply { return dialect.Reply{Status: status, Header: headers()} }

// headers are those of every reply (images contract, section 5.6).
func headers() http.Header {
	return http.Header{
		"Vary":          {"X-Auth-Token"},
		"Cache-Control": {"no-cache, no-store, must-revalidate, max-age=0"},
		"Expires":       {"Thu, 01 Jan 1970 00:00:00 GMT"},
	}
}
