package synnefo

import (
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
)

// versionJSON is a version as its documents have it. The members that only the document of one version has are absent
// from the list, and the media types have a name of their own in each version (images contract, section 8).
type versionJSON struct {
	ID           string      `json:"id"`
	Status       string      `json:"status"`
	Updated      string      `json:"updated"`
	Links        []linkJSON  `json:"links"`
	MediaTypes11 []mediaType `json:"media-types,omitempty"`
	MediaTypes20 []mediaType `json:"media_types,omitempty"`
}

type mediaType struct {
	Base string `json:"base"`
	Type string `json:"type"`
}

// described is where the API was described that Synnefo's follows.
var described = []linkJSON{
	{Rel: "describedby", Type: "application/pdf", Href: "http://docs.rackspacecloud.com/servers/api/v1.1/cs-devguide-20110125.pdf"},
	{Rel: "describedby", Type: "application/vnd.sun.wadl+xml", Href: "http://docs.rackspacecloud.com/servers/api/v1.1/application.wadl"},
}

func (v *version) about(base string) versionJSON {
	return versionJSON{ID: v.id, Status: "CURRENT", Updated: v.updated, Links: []linkJSON{{Rel: "self", Href: base + v.path + "/"}}}
}

func (v *version) media() []mediaType {
	return []mediaType{
		{"application/xml", "application/vnd.openstack.compute-" + v.id + "+xml"},
		{"application/json", "application/vnd.openstack.compute-" + v.id + "+json"},
	}
}

func (f *family) showVersions(r request) (dialect.Reply, error) {
	return f.reply(r.Request, http.StatusOK, versionsDocument{f.about(r.Base)})
}

func (f *family) showVersion(r request) (dialect.Reply, error) {
	doc := f.about(r.Base)
	doc.Links = append(doc.Links, described...)
	return f.reply(r.Request, http.StatusOK, versionDocument{doc, f.media()})
}

// versionsDocument is the list of versions, which has one: no client finds two below one root.
type versionsDocument struct{ only versionJSON }

func (d versionsDocument) json(v *version) any {
	return struct {
		Versions any `json:"versions"`
	}{v.wrap([]versionJSON{d.only})}
}

func (d versionsDocument) xml(m *markup) {
	m.open("versions", "xmlns", commonNS, "xmlns:atom", atomNS)
	m.open("version", "id", d.only.ID, "status", d.only.Status, "updated", d.only.Updated)
	m.links(d.only.Links)
	m.close("version")
	m.close("versions")
}

// versionDocument is one version with its media types.
type versionDocument struct {
	about versionJSON
	media []mediaType
}

func (d versionDocument) json(v *version) any {
	about := d.about
	v.mediaTypes(&about, d.media)
	return struct {
		Version versionJSON `json:"version"`
	}{about}
}

func (d versionDocument) xml(m *markup) {
	m.open("version", "xmlns", commonNS, "xmlns:atom", atomNS, "id", d.about.ID, "status", d.about.Status, "updated", d.about.Updated)
	m.links(d.about.Links)
	m.open("media-types")
	for _, t := range d.media {
		m.open("media-type", "base", t.Base, "type", t.Type)
		m.close("media-type")
	}
	m.close("media-types")
	m.close("version")
}

func (m *markup) links(links []linkJSON) {
	for _, l := range links {
		m.open("atom:link", "rel", l.Rel, "href", l.Href)
		if l.Type != "" {
			m.attribute("type", l.Type)
		}
		m.close("atom:link")
	}
}

// feed is what a version document is in Atom (RFC 4287). Its times have a clock, as Atom wants them.
func (v *version) feed(m *markup, base string) {
	self := base + v.path + "/"
	m.open("feed", "xmlns", atomNS)
	m.element("title", "Available API Versions", "type", "text")
	m.element("updated", v.since)
	m.element("id", self)
	m.open("author")
	m.element("name", "capsuled")
	m.close("author")
	m.open("link", "rel", "self", "href", self)
	m.close("link")
	m.open("entry")
	m.element("id", self)
	m.element("title", "Version "+v.id, "type", "text")
	m.element("updated", v.since)
	m.open("link", "rel", "self", "href", self)
	m.close("link")
	m.element("content", "Version "+v.id+" CURRENT ("+v.updated+")", "type", "text")
	m.close("entry")
	m.close("feed")
}
