package synnefo_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// validate has xmllint check a document against a schema of testdata, and returns what it says of faults.
func validate(t *testing.T, schema string, document []byte) string {
	t.Helper()
	xmllint, err := exec.LookPath("xmllint")
	if err != nil {
		t.Fatalf("%v: install libxml2-utils", err)
	}
	cmd := exec.CommandContext(t.Context(), xmllint, "--nonet", "--noout", "--schema", filepath.Join("testdata", schema+".xsd"), "-")
	cmd.Stdin = bytes.NewReader(document)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	return err.Error() + ": " + string(out)
}

// awkward has in its names and metadata everything that XML minds.
func awkward() *fake {
	f := kept()
	f.images[alpha] = image(alpha, "a & b <c> \"d\" 'e' ]]>\t\r\n \u0000\u001f\uffff\xff ☐ 😀", with(map[string]string{
		"a/b.c": "<&>", "☐": "", strings.Repeat("😀", 255): strings.Repeat("v", 256), " ": "\u0007", "\r\n": "\t\r\n", "]]>": "<![CDATA["}))
	return f
}

// TestSchemas checks every XML document of both versions against the schemas, which are written from the contract.
func TestSchemas(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		f := awkward()
		h := newHost(t, f)
		hour := time.Now().UTC().Add(-time.Minute).Format(time.RFC3339)
		f.images["active"] = image("active", "", func(m *daemon.Image) { m.UpdatedAt = time.Now() })
		root := strings.TrimSuffix(e.images, "/images")
		for _, row := range []struct{ schema, method, path, body string }{
			{"images", "GET", e.images, ""},
			{"images", "GET", e.images + "?changes-since=" + hour, ""},
			{"detail", "GET", e.path("/detail"), ""},
			{"detail", "GET", e.path("/detail?changes-since=") + hour, ""},
			{"image", "GET", e.path("/" + alpha), ""},
			{"image", "GET", e.path("/active"), ""},
			{"image", "GET", e.path("/pending"), ""},
			{"image", "GET", e.path("/leaving"), ""},
			{"image", "GET", e.path("/error"), ""},
			{"metadata", "GET", e.path("/" + alpha + "/META"), ""},
			{"metadata", "GET", e.path("/active/META"), ""},
			{"metadata", "POST", e.path("/" + alpha + "/META"), `{"metadata":{"<k>":"\"v\""}}`},
			{"meta", "GET", e.path("/" + alpha + "/META/%E2%98%90"), ""},
			{"meta", "PUT", e.path("/" + alpha + "/META/%26"), `{"meta":{"&":"&amp;"}}`},
			{"versions", "GET", map[edition]string{s1: "/api", s2: "/compute"}[e], ""},
			{"version", "GET", root, ""},
			{"version", "GET", root + "/", ""},
			{"fault", "GET", e.path("/none"), ""},
			{"fault", "GET", e.path("/%3Cscript%3E"), ""},
			{"fault", "POST", e.images, ""},
			{"fault", "PUT", e.images, ""},
			{"fault", "DELETE", e.path("/public"), ""},
			{"fault", "DELETE", e.path("/pending"), ""},
			{"fault", "GET", e.images + "?changes-since=%3C%00%3E", ""},
			{"fault", "PUT", e.path("/full/META/k"), `{"meta":{"k":1}}`},
			{"fault", "PUT", e.path("/full/META/k"), `{"meta":{"k":""}}`},
		} {
			a := h.ask(row.method, row.path, row.body, "Content-Type", "application/json", "Accept", "application/xml")
			if a.MediaType != "application/xml; charset=UTF-8" {
				t.Fatalf("%s: %s", a.asked, a.MediaType)
			}
			if fault := validate(t, row.schema, a.Body); fault != "" {
				t.Errorf("%s: %s\n%s", a.asked, fault, a.Body)
			}
			if a.Status/100 == 2 == (row.schema == "fault") {
				t.Errorf("%s: %d", a.asked, a.Status)
			}
		}
	})
}

// TestFaultSchema wants every fault that a class of error can be to have its element.
func TestFaultSchema(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		for _, code := range []daemon.Code{daemon.Invalid, daemon.Unauthorized, daemon.Forbidden, daemon.NotFound, daemon.Conflict, daemon.Gone,
			daemon.Busy, daemon.OverQuota, daemon.Exhausted, daemon.Unsupported, daemon.Unavailable, daemon.Internal} {
			f := newFake()
			f.fail = &daemon.Error{Code: code, Message: "why <& \x00"}
			a := newHost(t, f).ask("GET", e.images+".xml", "")
			if fault := validate(t, "fault", a.Body); fault != "" {
				t.Errorf("%s: %s\n%s", code, fault, a.Body)
			}
		}
	})
}

// TestAtomSchema checks the feed.
func TestAtomSchema(t *testing.T) {
	if fault := validate(t, "atom", newHost(t, newFake()).ask("GET", "/api.atom", "").Body); fault != "" {
		t.Error(fault)
	}
}

// TestSchemasRefuse wants the schemas to see what is wrong: a schema that takes everything shows nothing.
func TestSchemasRefuse(t *testing.T) {
	image := func(tail string) string { return replacer.Replace(`<image BOTHNS id="a" name=""` + tail) }
	for _, row := range []struct{ schema, document string }{
		{"images", `<images><image id="a" name=""/></images>`},
		{"images", `<images ` + xmlns + `><values/></images>`},
		{"images", `<images ` + xmlns + `><image id="a"/></images>`},
		{"images", `<images ` + xmlns + `><image id="a" name="" status="ACTIVE"/></images>`},
		{"detail", replacer.Replace(`<images XMLNS><image id="a" name="" STAMPS status="ACTIVE" progress="0"/></images>`)},
		{"detail", replacer.Replace(`<images XMLNS><image id="a" name="" STAMPS status="ACTIVE"><metadata/></image></images>`)},
		{"image", image(` serverRef="" STAMPS status="ACTIVE"/>`)},
		{"image", image(` STAMPS status="ACTIVE" progress="0"/>`)},
		{"image", image(` serverRef="" STAMPS status="active" progress="0"/>`)},
		{"image", image(` serverRef="" STAMPS status="ACTIVE" progress="50"/>`)},
		{"image", image(` serverRef="" updated="2026-03-01T11:31:45Z" created="2026-03-01T11:31:45Z" status="ACTIVE" progress="0"/>`)},
		{"metadata", `<metadata ` + xmlns + `><values/></metadata>`},
		{"metadata", `<metadata ` + xmlns + `><meta key="a"/><meta key="a"/></metadata>`},
		{"meta", `<meta ` + xmlns + `>v</meta>`},
		{"meta", `<meta ` + xmlns + ` key="">v</meta>`},
		{"fault", `<itemNotFound ` + xmlns + ` code="400"><message/><details/></itemNotFound>`},
		{"fault", `<itemNotFound ` + xmlns + ` code="404"><message/></itemNotFound>`},
		{"fault", `<itemNotFound code="404"><message/><details/></itemNotFound>`},
		{"versions", `<versions ` + xmlns + `/>`},
		{"version", `<version ` + commonNS + ` id="v1.1" status="CURRENT" updated="2011-04-01"/>`},
		{"atom", `<feed xmlns="http://www.w3.org/2005/Atom"/>`},
	} {
		if validate(t, row.schema, []byte(row.document)) == "" {
			t.Errorf("%s.xsd takes %s", row.schema, row.document)
		}
	}
}
