package synnefo_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// shelf has an image of every kind that the bodies differ by.
func shelf() *fake {
	return newFake(
		image(gamma, "on its way", in(daemon.ImagePending)),
		image(alpha, "jammy", func(m *daemon.Image) {
			m.Visibility, m.SourceCapsule = daemon.Public, "capsule-9"
			m.Metadata = map[string]string{"os": "linux", "Arch": "x86"}
		}),
		image(beta, "", nil))
}

const xmlns = `xmlns="http://docs.openstack.org/compute/api/v1.1"`

const xmlnsBoth = xmlns + ` xmlns:atom="http://www.w3.org/2005/Atom"`

// replacer puts the ids into what is wanted.
var replacer = strings.NewReplacer("ALPHA", alpha, "BETA", beta, "GAMMA", gamma,
	"TIMES", `"updated":"2026-03-01T11:31:45+00:00","created":"2026-03-01T11:30:45+00:00"`,
	"STAMPS", `updated="2026-03-01T11:31:45+00:00" created="2026-03-01T11:30:45+00:00"`,
	"HOST", "http://images.example:8774", "XMLNS", xmlns, "BOTHNS", xmlnsBoth)

const (
	alpha11 = `{"id":"ALPHA","name":"jammy",TIMES,"status":"ACTIVE","progress":100,"metadata":{"values":{"os":"linux","Arch":"x86"}}}`
	beta11  = `{"id":"BETA","name":"",TIMES,"status":"ACTIVE","progress":100}`
	gamma11 = `{"id":"GAMMA","name":"on its way",TIMES,"status":"SAVING","progress":0}`
	rest20  = `"user_id":"guid-owner","tenant_id":"guid-owner","links":[{"rel":"self","href":"HOST/compute/v2.0/images/ID"},` +
		`{"rel":"bookmark","href":"HOST/compute/v2.0/images/ID"},{"rel":"alternate","href":"HOST/image/v1.0/images/ID"}]`
	alpha20 = `{"id":"ALPHA","name":"jammy",TIMES,"status":"ACTIVE","progress":100,"metadata":{"os":"linux","Arch":"x86"},"public":true,"is_snapshot":true,`
	beta20  = `{"id":"BETA","name":"",TIMES,"status":"ACTIVE","progress":100,"metadata":{},"public":false,"is_snapshot":false,`
	gamma20 = `{"id":"GAMMA","name":"on its way",TIMES,"status":"SAVING","progress":0,"metadata":{},"public":false,"is_snapshot":false,`
)

func with20(head, id string) string { return head + strings.ReplaceAll(rest20, "ID", id) + "}" }

// TestBodies wants every JSON body of section 5.3, to the last member.
func TestBodies(t *testing.T) {
	a20, b20, c20 := with20(alpha20, "ALPHA"), with20(beta20, "BETA"), with20(gamma20, "GAMMA")
	briefs := `[{"id":"ALPHA","name":"jammy"},{"id":"BETA","name":""},{"id":"GAMMA","name":"on its way"}]`
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		want1, want2             string
	}{
		{"list", "GET", "", "", 200, `{"images":{"values":` + briefs + `}}`, `{"images":` + briefs + `}`},
		{"list with a slash", "GET", "/", "", 200, `{"images":{"values":` + briefs + `}}`, `{"images":` + briefs + `}`},
		{"detail", "GET", "/detail", "", 200, `{"images":{"values":[` + alpha11 + "," + beta11 + "," + gamma11 + `]}}`,
			`{"images":[` + a20 + "," + b20 + "," + c20 + `]}`},
		{"image", "GET", "/ALPHA", "", 200, `{"image":` + alpha11 + `}`, `{"image":` + a20 + `}`},
		{"image without metadata", "GET", "/BETA", "", 200, `{"image":` + beta11 + `}`, `{"image":` + b20 + `}`},
		{"metadata", "GET", "/ALPHA/META", "", 200, `{"metadata":{"values":{"os":"linux","Arch":"x86"}}}`, `{"metadata":{"os":"linux","Arch":"x86"}}`},
		{"no metadata", "GET", "/BETA/META", "", 200, `{"metadata":{"values":{}}}`, `{"metadata":{}}`},
		{"merge", "POST", "/ALPHA/META", `{"metadata":{"os":"bsd","new":""}}`, 201,
			`{"metadata":{"os":"bsd","Arch":"x86","new":""}}`, `{"metadata":{"os":"bsd","Arch":"x86","new":""}}`},
		{"merge of nothing", "POST", "/ALPHA/META", `{"metadata":{}}`, 201, `{"metadata":{"os":"linux","Arch":"x86"}}`, `{"metadata":{"os":"linux","Arch":"x86"}}`},
		{"item", "GET", "/ALPHA/META/os", "", 200, `{"meta":{"os":"linux"}}`, `{"meta":{"os":"linux"}}`},
		{"put item", "PUT", "/ALPHA/META/os", `{"meta":{"os":"bsd"}}`, 201, `{"meta":{"os":"bsd"}}`, `{"meta":{"os":"bsd"}}`},
		{"delete item", "DELETE", "/ALPHA/META/os", "", 204, "", ""},
		{"delete missing item", "DELETE", "/ALPHA/META/none", "", 204, "", ""},
		{"delete image", "DELETE", "/ALPHA", "", 204, "", ""},
	} {
		each(t, func(t *testing.T, e edition) {
			t.Run(row.name, func(t *testing.T) {
				want := row.want1
				if e == s2 {
					want = row.want2
				}
				a := newHost(t, shelf()).ask(row.method, e.path(replacer.Replace(row.path)), row.body, "Content-Type", "application/json")
				a.is(row.status, replacer.Replace(want))
				hasHeaders(t, a)
			})
		})
	}
}

// hasHeaders wants what every reply has (section 5.6).
func hasHeaders(t *testing.T, a answer) {
	t.Helper()
	if a.Header.Get("Vary") != "X-Auth-Token" || a.Header.Get("Expires") != "Thu, 01 Jan 1970 00:00:00 GMT" ||
		a.Header.Get("Cache-Control") != "no-cache, no-store, must-revalidate, max-age=0" {
		t.Errorf("%s: headers %v", a.asked, a.Header)
	}
	for _, name := range []string{"Etag", "Last-Modified"} {
		if _, ok := a.Header[name]; ok {
			t.Errorf("%s: %s", a.asked, name)
		}
	}
}

// TestXMLBodies wants every XML body of section 5.6, to the last character; both versions have the same.
func TestXMLBodies(t *testing.T) {
	items := `<meta key="Arch">x86</meta><meta key="os">linux</meta>`
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"list", "GET", ".xml", "", 200, `<images BOTHNS><image id="ALPHA" name="jammy"/><image id="BETA" name=""/><image id="GAMMA" name="on its way"/></images>`},
		{"detail", "GET", "/detail.xml", "", 200, `<images BOTHNS><image id="ALPHA" name="jammy" STAMPS status="ACTIVE"><metadata>` + items + `</metadata></image>` +
			`<image id="BETA" name="" STAMPS status="ACTIVE"/><image id="GAMMA" name="on its way" STAMPS status="SAVING"/></images>`},
		{"image", "GET", "/ALPHA.xml", "", 200, `<image BOTHNS id="ALPHA" name="jammy" serverRef="capsule-9" STAMPS status="ACTIVE" progress="100"><metadata>` +
			items + `</metadata></image>`},
		{"image of no capsule", "GET", "/GAMMA.xml", "", 200, `<image BOTHNS id="GAMMA" name="on its way" serverRef="" STAMPS status="SAVING" progress="0"/>`},
		{"metadata", "GET", "/ALPHA/META.xml", "", 200, `<metadata XMLNS>` + items + `</metadata>`},
		{"no metadata", "GET", "/BETA/META.xml", "", 200, `<metadata XMLNS/>`},
		{"merge", "POST", "/ALPHA/META.xml", `{"metadata":{"b":"1","Z":"2"}}`, 201,
			`<metadata XMLNS><meta key="Arch">x86</meta><meta key="Z">2</meta><meta key="b">1</meta><meta key="os">linux</meta></metadata>`},
		{"item", "GET", "/ALPHA/META/os.xml", "", 200, `<meta XMLNS key="os">linux</meta>`},
		{"put item", "PUT", "/ALPHA/META/e.xml", `{"meta":{"e":""}}`, 201, `<meta XMLNS key="e"/>`},
		{"fault", "GET", "/none.xml", "", 404, `<itemNotFound XMLNS code="404"><message>there is no such image</message><details/></itemNotFound>`},
	} {
		each(t, func(t *testing.T, e edition) {
			t.Run(row.name, func(t *testing.T) {
				a := newHost(t, shelf()).ask(row.method, e.path(replacer.Replace(row.path)), row.body, "Content-Type", "application/json")
				a.isXML(row.status, replacer.Replace(row.want))
				hasHeaders(t, a)
			})
		})
	}
}
