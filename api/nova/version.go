package nova

import (
	"encoding/json"
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
)

// version is what a version document says (images contract, section 8).
type version struct {
	ID         string      `json:"id"`
	Status     string      `json:"status"`
	Version    string      `json:"version"`     // the newest microversion; "" means that there are none
	MinVersion string      `json:"min_version"` // "" likewise
	Updated    string      `json:"updated"`
	Links      []link      `json:"links"`
	MediaTypes []mediaPair `json:"media-types,omitempty"`

	mediaType string
}

type link struct {
	Rel  string `json:"rel"`
	Type string `json:"type,omitempty"`
	Href string `json:"href"`
}

type mediaPair struct {
	Base string `json:"base"`
	Type string `json:"type"`
}

// root answers "/": all versions, by id. It looks at no microversion: a client that knows newer ones alone must be able
// to find out.
func root(req *dialect.Request) (dialect.Reply, error) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return dialect.Reply{}, noRoute()
	}
	req.Route = "GET /"
	var list struct {
		Versions []version `json:"versions"`
	}
	for _, m := range []*mount{mounts[1], mounts[0]} {
		v := m.version
		v.Links = []link{{Rel: "self", Href: req.Base + m.prefix + "/"}}
		list.Versions = append(list.Versions, v)
	}
	var none *mount
	return document(none.headers(req), list)
}

// showVersion answers "/v2.1", with and without a project.
func (c *call) showVersion() (dialect.Reply, error) {
	var one struct {
		Version version `json:"version"`
	}
	one.Version = c.version
	one.Version.Links = []link{
		{Rel: "self", Href: c.Base + c.prefix + "/"},
		{Rel: "describedby", Type: "text/html", Href: "http://docs.openstack.org/"},
	}
	one.Version.MediaTypes = []mediaPair{{Base: mediaType, Type: c.version.mediaType}}
	return document(nil, one)
}

func document(h http.Header, body any) (dialect.Reply, error) {
	text, err := json.Marshal(body)
	return dialect.Reply{Header: h, MediaType: mediaType, Body: text}, err
}
