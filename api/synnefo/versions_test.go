package synnefo_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/synnefo"
	"github.com/capsuled/capsuled/daemon"
)

const (
	self11 = `{"rel":"self","href":"HOST/api/v1.1/"}`
	self20 = `{"rel":"self","href":"HOST/compute/v2.0/"}`
	docs   = `,{"rel":"describedby","type":"application/pdf","href":"http://docs.rackspacecloud.com/servers/api/v1.1/cs-devguide-20110125.pdf"},` +
		`{"rel":"describedby","type":"application/vnd.sun.wadl+xml","href":"http://docs.rackspacecloud.com/servers/api/v1.1/application.wadl"}`
	list11 = `{"versions":{"values":[{"id":"v1.1","status":"CURRENT","updated":"2011-04-01","links":[` + self11 + `]}]}}`
	list20 = `{"versions":[{"id":"v2.0","status":"CURRENT","updated":"2011-01-21T11:33:21-06:00","links":[` + self20 + `]}]}`
	one11  = `{"version":{"id":"v1.1","status":"CURRENT","updated":"2011-04-01","links":[` + self11 + docs + `],"media-types":[` +
		`{"base":"application/xml","type":"application/vnd.openstack.compute-v1.1+xml"},{"base":"application/json","type":"application/vnd.openstack.compute-v1.1+json"}]}}`
	one20 = `{"version":{"id":"v2.0","status":"CURRENT","updated":"2011-01-21T11:33:21-06:00","links":[` + self20 + docs + `],"media_types":[` +
		`{"base":"application/xml","type":"application/vnd.openstack.compute-v2.0+xml"},{"base":"application/json","type":"application/vnd.openstack.compute-v2.0+json"}]}}`
	commonNS = `xmlns="http://docs.openstack.org/common/api/v1.0" xmlns:atom="http://www.w3.org/2005/Atom"`
)

// TestVersionDocuments wants section 8, from nobody in particular.
func TestVersionDocuments(t *testing.T) {
	h := newHost(t, newFake())
	h.caller = daemon.Caller{}
	for path, want := range map[string]string{
		"/api": list11, "/api/": list11, "/api.json": list11, "/api/v1.1": one11, "/api/v1.1/": one11,
		"/compute": list20, "/compute/": list20, "/compute.json": list20, "/compute/v2.0": one20, "/compute/v2.0/": one20,
	} {
		a := h.ask("GET", path, "")
		a.is(200, replacer.Replace(want))
		hasHeaders(t, a)
	}
	for path, want := range map[string]string{
		"/api.xml": `<versions ` + commonNS + `><version id="v1.1" status="CURRENT" updated="2011-04-01">` +
			`<atom:link rel="self" href="HOST/api/v1.1/"/></version></versions>`,
		"/compute.xml": `<versions ` + commonNS + `><version id="v2.0" status="CURRENT" updated="2011-01-21T11:33:21-06:00">` +
			`<atom:link rel="self" href="HOST/compute/v2.0/"/></version></versions>`,
	} {
		h.ask("GET", path, "").isXML(200, replacer.Replace(want))
	}
	h.ask("GET", "/compute/v2.0/", "", "Accept", "application/xml").isXML(200, replacer.Replace(`<version `+commonNS+
		` id="v2.0" status="CURRENT" updated="2011-01-21T11:33:21-06:00"><atom:link rel="self" href="HOST/compute/v2.0/"/>`+
		`<atom:link rel="describedby" href="http://docs.rackspacecloud.com/servers/api/v1.1/cs-devguide-20110125.pdf" type="application/pdf"/>`+
		`<atom:link rel="describedby" href="http://docs.rackspacecloud.com/servers/api/v1.1/application.wadl" type="application/vnd.sun.wadl+xml"/>`+
		`<media-types><media-type base="application/xml" type="application/vnd.openstack.compute-v2.0+xml"/>`+
		`<media-type base="application/json" type="application/vnd.openstack.compute-v2.0+json"/></media-types></version>`))
}

func TestVersionsInAtom(t *testing.T) {
	h := newHost(t, newFake())
	for _, a := range []answer{
		h.ask("GET", "/api.atom", ""),
		h.ask("GET", "/api/", "", "Accept", "application/atom+xml"),
		h.ask("GET", "/api/v1.1/", "", "Accept", "text/html, application/atom+xml;q=0.1, application/xml"),
	} {
		if a.Status != 200 || a.MediaType != "application/atom+xml; charset=UTF-8" ||
			!strings.Contains(string(a.Body), `<entry><id>http://images.example:8774/api/v1.1/</id>`) {
			t.Errorf("%s: %d %s: %s", a.asked, a.Status, a.MediaType, a.Body)
		}
	}
	// Version 2.0 has none, and neither have images.
	h.ask("GET", "/compute", "", "Accept", "application/atom+xml").is(200, replacer.Replace(list20))
	h.ask("GET", s1.images, "", "Accept", "application/atom+xml").is(200, `{"images":{"values":[]}}`)
	h.ask("GET", s1.images+".atom", "").isFault(400, "badRequest")
}

// TestSpeaks wants every path to be one family's at most, and others' paths nobody's here.
func TestSpeaks(t *testing.T) {
	for path, want := range map[string]string{
		"/api": "S1", "/api/": "S1", "/api.json": "S1", "/api.xml": "S1", "/api.atom": "S1", "/api/v1.1": "S1", "/api/v1.1/": "S1",
		"/api/v1.1/images": "S1", "/api/v1.1/anything": "S1", "/api/v1.1/images/../../glance": "S1",
		"/compute": "S2", "/compute/": "S2", "/compute.json": "S2", "/compute.xml": "S2", "/compute/v2.0": "S2", "/compute/v2.0/": "S2",
		"/compute/v2.0/images": "S2", "/compute/v2.0//": "S2",
		"/": "", "": "", "*": "", "/api/glance": "", "/api/glance/images/": "", "/api//": "", "/api/v1.10": "", "/api/v1.1x": "", "/api/v2.0": "",
		"/api.yaml": "", "/apis": "", "/compute.atom": "", "/compute/v2.1": "", "/compute/v2.1/images": "", "/compute/v2.01": "", "/compute/v2": "",
		"/v1.1/images": "", "/v2.0/images": "", "//api/v1.1/": "", "/API": "", "/api/v1.1.json": "",
	} {
		var got string
		for i, f := range synnefo.New(synnefo.Options{Daemon: newFake()}) {
			if f.Speaks(path) {
				got += editions[i].name
			}
		}
		if got != want {
			t.Errorf("%q is spoken for by %q, want %q", path, got, want)
		}
	}
}

// TestOpen wants nothing but version documents to be read without an identity.
func TestOpen(t *testing.T) {
	f := synnefo.New(synnefo.Options{Daemon: newFake()})[0]
	for _, row := range []struct {
		method, path string
		want         bool
	}{
		{"GET", "/api", true}, {"GET", "/api/", true}, {"GET", "/api.atom", true}, {"GET", "/api/v1.1/", true},
		{"POST", "/api", false}, {"HEAD", "/api", false}, {"GET", "/api/v1.1/images", false}, {"GET", "/api/v1.1//", false}, {"GET", "/compute", false},
	} {
		if got := f.Open(row.method, row.path); got != row.want {
			t.Errorf("%s %s: open %v", row.method, row.path, got)
		}
	}
}
