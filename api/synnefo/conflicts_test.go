package synnefo_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestConflictTable is the columns S1 and S2 of the contract's section 11, row by row. What a row needs more than one
// look for has a test of its own as well.
func TestConflictTable(t *testing.T) {
	items := with(map[string]string{"a": "b"})
	for _, row := range []struct {
		topic, method, path, body, contentType string
		want1, want2                           string // status and what is in the body
	}{
		{"metadata URL", "GET", "/alpha/meta", "", "", `200 `, `400 "badRequest"`},
		{"metadata URL", "GET", "/alpha/metadata", "", "", `400 "badRequest"`, `200 `},
		{"list wrapper", "GET", "", "", "", `200 {"images":{"values":[{`, `200 {"images":[{`},
		{"metadata read wrapper", "GET", "/alpha/META", "", "", `200 {"metadata":{"values":{"a":"b"}}}`, `200 {"metadata":{"a":"b"}}`},
		{"POST metadata", "POST", "/alpha/META", `{"metadata":{"c":"d"}}`, "application/json", `201 {"metadata":{"a":"b","c":"d"}}`, `201 {"metadata":{"a":"b","c":"d"}}`},
		{"PUT metadata", "PUT", "/alpha/META", `{"metadata":{"c":"d"}}`, "application/json", `400 "badRequest"`, `405 "notAllowed"`},
		{"PUT item", "PUT", "/alpha/META/c", `{"meta":{"c":"d"}}`, "application/json", `201 {"meta":{"c":"d"}}`, `201 {"meta":{"c":"d"}}`},
		{"DELETE missing key", "DELETE", "/alpha/META/c", "", "", `204 `, `204 `},
		{"POST /images", "POST", "", `{}`, "application/json", `503 "serviceUnavailable"`, `501 "notImplemented"`},
		{"changes-since naive time", "GET", "?changes-since=2026-03-01T11:30:45", "", "", `400 "badRequest"`, `400 "badRequest"`},
		{"changes-since old", "GET", "?changes-since=1999-03-01T11:30:45Z", "", "", `400 "badRequest"`, `400 "badRequest"`},
		{"changes-since future", "GET", "?changes-since=9999-03-01T11:30:45Z", "", "", `400 "badRequest"`, `400 "badRequest"`},
		{"unknown path", "GET", "/alpha/other", "", "", `400 "badRequest"`, `400 "badRequest"`},
		{"wrong method", "PATCH", "/alpha", "", "", `400 "badRequest"`, `405 "notAllowed"`},
		{"wrong content type", "POST", "/alpha/META", `{"metadata":{}}`, "text/plain", `400 "badRequest"`, `400 "badRequest"`},
		{"too many items", "PUT", "/full/META/c", `{"meta":{"c":"d"}}`, "application/json", `413 "overLimit"`, `413 "overLimit"`},
		{"fault body", "GET", "/none", "", "", `404 {"itemNotFound":{"code":404,"message":"there is no such image","details":""}}`,
			`404 {"itemNotFound":{"code":404,"message":"there is no such image","details":""}}`},
		{"time format", "GET", "/alpha", "", "", `200 "created":"2026-03-01T11:30:45+00:00"`, `200 "created":"2026-03-01T11:30:45+00:00"`},
		{"empty metadata", "GET", "/beta", "", "", `200 "progress":100}}`, `200 "metadata":{}`},
		{"order", "GET", "", "", "", `200 [{"id":"alpha","name":"z"},{"id":"beta","name":"a"},{"id":"full"`, `200 [{"id":"alpha","name":"z"},{"id":"beta","name":"a"},{"id":"full"`},
		{"paging", "GET", "?limit=1&marker=alpha&name=none&status=DELETED", "", "", `200 [{"id":"alpha","name":"z"},{"id":"beta"`, `200 [{"id":"alpha","name":"z"},{"id":"beta"`},
		{"XML replies", "GET", "/alpha/META.xml", "", "", `200 <meta key="a">b</meta>`, `200 <meta key="a">b</meta>`},
		{"XML requests", "POST", "/alpha/META", `<metadata/>`, "application/xml", `400 "badRequest"`, `400 "badRequest"`},
		{"unicode keys", "PUT", "/alpha/META/%E2%98%90", `{"meta":{"☐":"d"}}`, "application/json", `201 {"meta":{"☐":"d"}}`, `201 {"meta":{"☐":"d"}}`},
		{"status words", "GET", "/alpha", "", "", `200 "status":"ACTIVE"`, `200 "status":"ACTIVE"`},
	} {
		each(t, func(t *testing.T, e edition) {
			t.Run(row.topic, func(t *testing.T) {
				f := kept()
				f.images = map[string]daemon.Image{"alpha": image("alpha", "z", items), "beta": image("beta", "a", nil), "full": f.images["full"]}
				a := newHost(t, f).ask(row.method, e.path(row.path), row.body, "Content-Type", row.contentType)
				want := []string{row.want1, row.want2}[e.family]
				status, body, _ := strings.Cut(want, " ")
				if strconv.Itoa(a.Status) != status || !strings.Contains(string(a.Body), body) {
					t.Errorf("%s: %d %s, want %s", a.asked, a.Status, a.Body, want)
				}
			})
		})
	}

	each(t, func(t *testing.T, e edition) {
		t.Run("crash", func(t *testing.T) {
			f := newFake()
			f.fail = &daemon.Error{Code: daemon.Internal}
			want := []faulted{away, broken}[e.family]
			if a := newHost(t, f).ask("GET", e.images, ""); a.Status != want.status {
				t.Errorf("%s: %d", a.asked, a.Status)
			}
		})
	})
}
