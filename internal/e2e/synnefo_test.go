package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exchange is one call that curl makes, and what it must come to.
type exchange struct {
	method, path string // below the version
	body         string
	header       string // another than those that every call has
	status       int
	schema       string   // of the XML that answers it; "" when there is no body
	json         []string // texts that the JSON must have
	xml          []string // and the XML
}

// synnefo are the two versions: what differs between them is here (images contract, section 5).
var synnefo = []struct {
	name, base, meta          string
	create, replace           int    // POST /images, PUT of all metadata
	list, metadata, noReplace string // how JSON begins; the fault of the latter
}{
	{"1.1", "/api/v1.1", "/meta", 503, 400, `{"images":{"values":[`, `{"metadata":{"values":{`, "badRequest"},
	{"2.0", "/compute/v2.0", "/metadata", 501, 405, `{"images":[`, `{"metadata":{`, "notAllowed"},
}

// TestSynnefoTranscript makes every call of both versions with curl, each in JSON and in XML, and has xmllint hold what
// comes against the schemas.
func TestSynnefoTranscript(t *testing.T) {
	const public = "https://capsules.example.org/host-1"
	h := startHost(t, fmt.Sprintf("api.public_url = %q", public))
	for _, v := range synnefo {
		for _, form := range []string{"json", "xml"} {
			t.Run(v.name+" "+form, func(t *testing.T) {
				h := h.within(t)
				made := h.imagesOf("alice", "a & <b> \"c\" 'd' ü", "plain")
				one, other := made["a & <b> \"c\" 'd' ü"], made["plain"]
				image, all := "/images/"+one, "/images/"+one+v.meta
				recent, future := since(-time.Minute), since(time.Hour)
				for _, x := range []exchange{
					{"GET", "/images", "", "", 200, "images", []string{v.list, one, other}, []string{`name="a &amp; &lt;b&gt; `, one, other}},
					{"GET", "/images/", "", "", 200, "images", []string{v.list, one, other}, nil},
					{"GET", "/images/detail", "", "", 200, "detail", []string{v.list, `"status":"ACTIVE"`, `"progress":100`}, nil},
					{"GET", "/images/detail?changes-since=" + recent, "", "", 200, "detail", []string{one}, nil},
					{"GET", "/images?changes-since=" + future, "", "", 400, "fault", []string{`{"badRequest":{"code":400`}, nil},
					{"GET", "/images?changes-since=2026-01-01T00:00:00", "", "", 400, "fault", []string{`{"badRequest":{"code":400`}, nil},
					{"POST", "/images", "{}", "", v.create, "fault", []string{fmt.Sprintf(`"code":%d`, v.create)}, nil},
					{"GET", image, "", "", 200, "image", []string{`{"image":{`, one, `"created":`, "+00:00"}, nil},
					{"GET", "/images/" + missing, "", "", 404, "fault", []string{`{"itemNotFound":{"code":404`, `"details":""`}, []string{`<itemNotFound`, `code="404"`}},
					{"POST", all, `{"metadata":{"os":"<none> & \"more\"","käse":"brie"}}`, "", 201, "metadata", []string{`{"metadata":{`, `"käse":"brie"`}, []string{`<meta key="os">&lt;none&gt; &amp; `, `<meta key="käse">brie</meta>`}},
					{"GET", all, "", "", 200, "metadata", []string{v.metadata, `"käse":"brie"`}, nil},
					{"PUT", all, `{"metadata":{}}`, "", v.replace, "fault", []string{v.noReplace}, nil},
					{"GET", all + "/k%C3%A4se", "", "", 200, "meta", []string{`{"meta":{"käse":"brie"}}`}, []string{`<meta `, `key="käse"`, `>brie</meta>`}},
					{"PUT", all + "/a/b", `{"meta":{"a/b":"c"}}`, "", 201, "meta", []string{`{"meta":{"a/b":"c"}}`}, nil},
					{"GET", all + "/a%2Fb", "", "", 200, "meta", []string{`{"meta":{"a/b":"c"}}`}, nil},
					{"PUT", all + "/a", `{"meta":{"b":"c"}}`, "", 400, "fault", []string{"badRequest"}, nil},
					{"PUT", all + "/a", `{"meta":`, "", 400, "fault", []string{"badRequest"}, nil},
					{"PUT", all + "/a", `{"meta":{"a":"b"}}`, "Content-Type: text/plain", 400, "fault", []string{"badRequest"}, nil},
					{"PUT", all + "/os", `{"meta":{"os":"any"}}`, "", 201, "meta", []string{`{"meta":{"os":"any"}}`}, nil},
					{"GET", image, "", "", 200, "image", []string{`"os":"any"`, `"a/b":"c"`}, nil},
					{"GET", "/images/detail", "", "", 200, "detail", []string{`"os":"any"`}, nil},
					{"GET", all + "/none", "", "", 404, "fault", []string{"itemNotFound"}, nil},
					{"DELETE", all + "/none", "", "", 204, "", nil, nil},
					{"DELETE", all + "/a/b", "", "", 204, "", nil, nil},
					{"GET", all + "/a/b", "", "", 404, "fault", []string{"itemNotFound"}, nil},
					{"GET", "/nothing", "", "", 400, "fault", []string{"badRequest"}, nil},
					{"GET", "/images", "", "X-Auth-Token: wrong", 401, "fault", []string{`{"unauthorized":{"code":401`}, nil},
					{"DELETE", image, "", "", 204, "", nil, nil},
					{"GET", image, "", "", 200, "image", []string{`"status":"DELETED"`, `"progress":0`}, []string{`status="DELETED"`, `progress="0"`, `serverRef=""`}},
					{"DELETE", image, "", "", 404, "fault", []string{"itemNotFound"}, nil},
					{"GET", "/images/detail?changes-since=" + recent, "", "", 200, "detail", []string{`"status":"DELETED"`}, nil},
					{"DELETE", "/images/" + other, "", "", 204, "", nil, nil},
					{"GET", "/images/detail", "", "", 200, "detail", []string{v.list}, nil},
				} {
					h.curl(v.base, form, x)
				}
				// As its own suffix, and by a query in version 2.0.
				h.curl(v.base, form, exchange{"GET", "/images." + form, "", "Accept: text/plain", 200, "images", []string{v.list}, nil})
				h.curl(v.base, form, exchange{"GET", "/images/detail." + form, "", "Accept: text/plain", 200, "detail", []string{v.list}, nil})
				if v.name == "2.0" {
					h.curl(v.base, form, exchange{"GET", "/images?format=" + form, "", "Accept: text/plain", 200, "images", []string{v.list}, nil})
				}
				root := v.base[:strings.LastIndex(v.base, "/")]
				h.curl(root, form, exchange{"GET", "/", "", "", 200, "versions", []string{`"status":"CURRENT"`}, []string{`status="CURRENT"`}})
				h.curl(v.base, form, exchange{"GET", "/", "", "", 200, "version", []string{`"describedby"`, `"` + public + v.base + `/"`}, []string{`rel="describedby"`, `"` + public + v.base + `/"`}})
			})
		}
		t.Run(v.name+" unchanged", func(t *testing.T) { // by somebody who has no image
			h := h.within(t)
			for _, path := range []string{"/images", "/images/detail"} {
				h.curlAs(as(t, "carol"), v.base, "json", exchange{"GET", path + "?changes-since=" + since(0), "", "", 304, "", nil, nil})
			}
		})
	}
}

const missing = "00000000-0000-4000-8000-000000000000"

func since(d time.Duration) string {
	return strings.ReplaceAll(time.Now().UTC().Add(d).Format("2006-01-02T15:04:05-07:00"), "+", "%2B")
}

func (h *host) curl(base, form string, x exchange) {
	h.t.Helper()
	h.curlAs(as(h.t, "alice"), base, form, x)
}

// curlAs makes a call, and holds its answer against what it must be.
func (h *host) curlAs(tok, base, form string, x exchange) {
	t := h.t
	t.Helper()
	body := filepath.Join(t.TempDir(), "body")
	own := [][2]string{{"X-Auth-Token", tok}, {"Accept", "application/" + form}}
	if x.body != "" {
		own = append(own, [2]string{"Content-Type", "application/json"})
	}
	argv := []string{"-sS", "--path-as-is", "-o", body, "-w", "%{http_code} %{content_type}", "-X", x.method}
	for _, header := range own {
		if !strings.HasPrefix(x.header, header[0]+":") {
			argv = append(argv, "-H", header[0]+": "+header[1])
		}
	}
	if x.header != "" {
		argv = append(argv, "-H", x.header)
	}
	if x.body != "" {
		argv = append(argv, "--data-binary", x.body)
	}
	out, err := command(t, "curl", append(argv, "http://127.0.0.1:18080"+base+x.path)...)
	if err != nil {
		t.Fatalf("curl %s %s: %v: %s", x.method, x.path, err, out)
	}
	status, kind, _ := strings.Cut(out, " ")
	got, _ := os.ReadFile(body) // absent for an answer without one
	what := fmt.Sprintf("%s %s%s", x.method, base, x.path)
	if status != strconv.Itoa(x.status) {
		t.Errorf("%s: %s %s, want %d", what, status, brief(string(got)), x.status)
		return
	}
	switch {
	case x.schema == "":
		if len(got) != 0 {
			t.Errorf("%s: %d with a body: %s", what, x.status, brief(string(got)))
		}
	case !strings.HasPrefix(kind, "application/"+form):
		t.Errorf("%s: it is %q", what, kind)
	case form == "json":
		if !json.Valid(got) {
			t.Errorf("%s: no JSON: %s", what, brief(string(got)))
		}
		for _, text := range x.json {
			if !strings.Contains(string(got), text) {
				t.Errorf("%s: it does not have %s: %s", what, text, brief(string(got)))
			}
		}
	default:
		schema := filepath.Join("..", "..", "api", "synnefo", "testdata", x.schema+".xsd")
		if out, err := exec.CommandContext(t.Context(), "xmllint", "--nonet", "--noout", "--schema", schema, body).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s\n%s", what, err, out, got)
		}
		for _, text := range x.xml {
			if !strings.Contains(string(got), text) {
				t.Errorf("%s: it does not have %s: %s", what, text, brief(string(got)))
			}
		}
	}
}
