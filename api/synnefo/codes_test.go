package synnefo_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// faulted is what a version answers: a status and the name of the fault.
type faulted struct {
	status int
	name   string
}

var (
	bad        = faulted{400, "badRequest"}
	unnamed    = faulted{401, "unauthorized"}
	forbidden  = faulted{403, "forbidden"}
	missing    = faulted{404, "itemNotFound"}
	notAllowed = faulted{405, "notAllowed"}
	building   = faulted{409, "buildInProgress"}
	overLimit  = faulted{413, "overLimit"}
	broken     = faulted{500, "internalServerError"}
	notDone    = faulted{501, "notImplemented"}
	away       = faulted{503, "serviceUnavailable"}
)

// kept are images in every state, by words that are ids.
func kept() *fake {
	state := func(id string, s daemon.ImageState) daemon.Image { return image(id, id, in(s)) }
	full := map[string]string{}
	for i := range daemon.MaxMetadataItems {
		full["k"+strconv.Itoa(i)] = "v"
	}
	return newFake(
		state("active", daemon.ImageActive), state("pending", daemon.ImagePending), state("leaving", daemon.ImageDeletePending),
		state("deleted", daemon.ImageDeleted), state("error", daemon.ImageError),
		image("protected", "", func(m *daemon.Image) { m.Protected = true }),
		image("full", "", with(full)),
		image("public", "", func(m *daemon.Image) { m.Owner, m.Visibility = "another", daemon.Public }),
		image("shared", "", func(m *daemon.Image) { m.Owner, m.Visibility = "another", daemon.Shared }),
		image("private", "", func(m *daemon.Image) { m.Owner = "another" }))
}

// TestRefusals is a row for each route and each way to be refused, in both versions, in JSON and in XML.
func TestRefusals(t *testing.T) {
	long := strings.Repeat("k", 256)
	for _, row := range []struct {
		method, path, body string
		want1, want2       faulted
	}{
		{"POST", "", "", away, notDone},
		{"POST", "/", `{"image":{}}`, away, notDone},
		{"PUT", "", "", bad, notAllowed},
		{"DELETE", "/", "", bad, notAllowed},
		{"HEAD", "", "", bad, notAllowed},
		{"GET", "?changes-since=yesterday", "", bad, bad},
		{"GET", "?changes-since=2026-03-01T11:30:45", "", bad, bad},
		{"GET", "/detail?changes-since=2026-03-01T11:30:45", "", bad, bad},
		{"GET", "?changes-since=%zz", "", bad, bad},

		{"POST", "/detail", `{}`, bad, notAllowed},
		{"PUT", "/detail", `{}`, bad, notAllowed},
		{"DELETE", "/detail", "", bad, notAllowed},

		{"GET", "/none", "", missing, missing},
		{"GET", "/private", "", missing, missing},
		{"GET", "/deleted", "", missing, missing},
		{"POST", "/active", `{}`, bad, notAllowed},
		{"PUT", "/active", `{}`, bad, notAllowed},
		{"DELETE", "/none", "", missing, missing},
		{"DELETE", "/private", "", missing, missing},
		{"DELETE", "/public", "", forbidden, forbidden},
		{"DELETE", "/shared", "", forbidden, forbidden},
		{"DELETE", "/protected", "", forbidden, forbidden},
		{"DELETE", "/pending", "", building, building},
		{"DELETE", "/leaving", "", missing, missing},
		{"DELETE", "/deleted", "", missing, missing},

		{"GET", "/none/META", "", missing, missing},
		{"GET", "/private/META", "", missing, missing},
		{"GET", "/deleted/META", "", missing, missing},
		{"PUT", "/active/META", `{"metadata":{}}`, bad, notAllowed},
		{"DELETE", "/active/META", "", bad, notAllowed},
		{"POST", "/active/META", "", bad, bad},
		{"POST", "/active/META", `{`, bad, bad},
		{"POST", "/active/META", `[]`, bad, bad},
		{"POST", "/active/META", `{"metadata":{}} {}`, bad, bad},
		{"POST", "/active/META", "{\"metadata\":{\"a\":\"\xff\"}}", bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":"\ud800"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":"1","a":"2"}}`, bad, bad},
		{"POST", "/active/META", `<metadata xmlns="http://docs.openstack.org/compute/api/v1.1"/>`, bad, bad},
		{"POST", "/active/META", `{}`, bad, bad},
		{"POST", "/active/META", `{"meta":{"a":"b"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":null}`, bad, bad},
		{"POST", "/active/META", `{"metadata":[]}`, bad, bad},
		{"POST", "/active/META", `{"metadata":"a"}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"values":{"a":"b"}}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":null}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":1}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":true}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"":"b"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"` + long + `":"b"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":"` + long + `v"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":"\u0000"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a\u001b":"b"}}`, bad, bad},
		{"POST", "/active/META", `{"metadata":{"a":"` + strings.Repeat("v", 114688) + `"}}`, overLimit, overLimit},
		{"POST", "/full/META", `{"metadata":{"one":"more"}}`, overLimit, overLimit},
		{"POST", "/none/META", `{"metadata":{"a":"b"}}`, missing, missing},
		{"POST", "/none/META", `{"metadata":[]}`, missing, missing}, // the image before the shape
		{"POST", "/none/META", `{`, bad, bad},                       // but after what is no JSON
		{"POST", "/private/META", `{}`, missing, missing},
		{"POST", "/public/META", `{"metadata":{"a":"b"}}`, forbidden, forbidden},
		{"POST", "/pending/META", `{"metadata":{"a":"b"}}`, building, building},
		{"POST", "/leaving/META", `{"metadata":{"a":"b"}}`, building, building},
		{"POST", "/deleted/META", `{"metadata":{"a":"b"}}`, missing, missing},
		{"POST", "/deleted/META", `{}`, missing, missing},
		{"POST", "/error/META", `{"metadata":{"a":"b"}}`, building, building},

		{"GET", "/active/META/none", "", missing, missing},
		{"GET", "/none/META/a", "", missing, missing},
		{"GET", "/deleted/META/a", "", missing, missing},
		{"POST", "/active/META/a", `{"meta":{"a":"b"}}`, bad, notAllowed},
		{"PATCH", "/active/META/a", `{"meta":{"a":"b"}}`, bad, notAllowed},
		{"PUT", "/active/META/a", "", bad, bad},
		{"PUT", "/active/META/a", `{}`, bad, bad},
		{"PUT", "/active/META/a", `{"metadata":{"a":"b"}}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":[]}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":{}}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":{"b":"a"}}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":{"A":"b"}}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":{"a":"b","c":"d"}}`, bad, bad},
		{"PUT", "/active/META/a", `{"meta":{"a":1}}`, bad, bad},
		{"PUT", "/active/META/" + long, `{"meta":{"` + long + `":"b"}}`, bad, bad},
		{"PUT", "/none/META/a", `{"meta":{"b":"a"}}`, bad, bad}, // the shape before the image
		{"PUT", "/none/META/a", `{"meta":{"a":"b"}}`, missing, missing},
		{"PUT", "/public/META/a", `{"meta":{"a":"b"}}`, forbidden, forbidden},
		{"PUT", "/pending/META/a", `{"meta":{"a":"b"}}`, building, building},
		{"PUT", "/leaving/META/a", `{"meta":{"a":"b"}}`, building, building},
		{"PUT", "/deleted/META/a", `{"meta":{"a":"b"}}`, missing, missing},
		{"PUT", "/full/META/one", `{"meta":{"one":"more"}}`, overLimit, overLimit},
		{"DELETE", "/none/META/a", "", missing, missing},
		{"DELETE", "/public/META/a", "", forbidden, forbidden},
		{"DELETE", "/private/META/a", "", missing, missing},
		{"DELETE", "/pending/META/a", "", building, building},
		{"DELETE", "/leaving/META/a", "", building, building},
		{"DELETE", "/deleted/META/a", "", missing, missing},

		{"GET", "/active/", "", bad, bad},
		{"GET", "/detail/", "", bad, bad},
		{"GET", "//", "", bad, bad},
		{"GET", "/active/META/", "", bad, bad},
		{"GET", "/active/other", "", bad, bad},
		{"GET", "/ac.tive", "", bad, bad},
		{"GET", "/%E2%98%90", "", bad, bad},
		{"GET", "/active/META/%FF", "", bad, bad},
		{"GET", "/../images", "", bad, bad},
		{"GET", "x", "", bad, bad},
	} {
		each(t, func(t *testing.T, e edition) {
			want := row.want1
			if e == s2 {
				want = row.want2
			}
			for _, accept := range []string{"application/json", "application/xml"} {
				t.Run(row.method+" "+row.path+" "+row.body[:min(len(row.body), 40)]+" "+accept, func(t *testing.T) {
					a := newHost(t, kept()).ask(row.method, e.path(row.path), row.body, "Content-Type", "application/json", "Accept", accept)
					a.isFault(want.status, want.name)
					if a.MediaType != accept+"; charset=UTF-8" {
						t.Errorf("%s: %s", a.asked, a.MediaType)
					}
					if got := a.Header.Get("Allow") != ""; got != (want == notAllowed) {
						t.Errorf("%s: Allow %q", a.asked, a.Header.Get("Allow"))
					}
					hasHeaders(t, a)
				})
			}
		})
	}
}

// TestAllow wants the methods of each path, a comma between them and no space.
func TestAllow(t *testing.T) {
	h := newHost(t, kept())
	for path, want := range map[string]string{
		"": "GET,POST", "/detail": "GET", "/active": "GET,DELETE", "/active/META": "GET,POST", "/active/META/k": "GET,PUT,DELETE",
	} {
		a := h.ask("PATCH", s2.path(path), "")
		a.isFault(405, "notAllowed")
		if got := a.Header.Get("Allow"); got != want {
			t.Errorf("%s: Allow %q, want %q", a.asked, got, want)
		}
	}
	h.ask("POST", "/compute/", "").isFault(405, "notAllowed")
	h.ask("POST", "/api/", "").isFault(400, "badRequest")
}

// TestContentTypes wants application/json of what writes, however it goes on; 400 otherwise, not 415.
func TestContentTypes(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, kept())
		for _, given := range []string{"application/json", "application/json; charset=UTF-8", "Application/JSON"} {
			h.ask("POST", e.path("/active/META"), `{"metadata":{}}`, "Content-Type", given).is(201, `{"metadata":{}}`)
		}
		for _, given := range []string{"", "text/plain", "application/xml", "text/json", " application", "application/x-www-form-urlencoded"} {
			h.ask("POST", e.path("/active/META"), `{"metadata":{}}`, "Content-Type", given).isFault(400, "badRequest")
			h.ask("PUT", e.path("/active/META/a"), `{"meta":{"a":"b"}}`, "Content-Type", given).isFault(400, "badRequest")
		}
		h.ask("POST", e.path("/active/META"), `{"metadata":{}}`).isFault(400, "badRequest")
	})
}

// TestDaemonCodes wants the fault of each class of error that a verb can have, on each route that calls one.
func TestDaemonCodes(t *testing.T) {
	for code, want := range map[daemon.Code][2]faulted{
		daemon.Invalid: {bad, bad}, daemon.Unauthorized: {unnamed, unnamed}, daemon.Forbidden: {forbidden, forbidden},
		daemon.NotFound: {missing, missing}, daemon.Conflict: {building, building}, daemon.Gone: {building, building},
		daemon.Busy: {building, building}, daemon.OverQuota: {overLimit, overLimit}, daemon.Exhausted: {away, away},
		daemon.Unsupported: {away, notDone}, daemon.Unavailable: {away, away}, daemon.Internal: {away, broken},
		"": {away, broken}, // no *daemon.Error
	} {
		each(t, func(t *testing.T, e edition) {
			f := kept()
			f.fail = &daemon.Error{Code: code, Message: "the sentence"}
			if code == "" {
				f.fail = errors.New("/secret-place")
			}
			h := newHost(t, f)
			for _, row := range []struct{ method, path, body string }{
				{"GET", "", ""}, {"GET", "/detail", ""}, {"GET", "/active", ""}, {"DELETE", "/active", ""}, {"GET", "/active/META", ""},
				{"POST", "/active/META", `{"metadata":{}}`}, {"POST", "/active/META", `{}`}, {"GET", "/active/META/a", ""},
				{"PUT", "/active/META/a", `{"meta":{"a":"b"}}`}, {"DELETE", "/active/META/a", ""},
			} {
				wanted := want[e.family]
				if code == daemon.Gone && row.method == "DELETE" && row.path == "/active" {
					wanted = missing
				}
				a := h.put(row.method, e.path(row.path), row.body)
				a.isFault(wanted.status, wanted.name)
				if strings.Contains(string(a.Body), "secret") {
					t.Errorf("%s: %s", a.asked, a.Body)
				}
				waits := map[daemon.Code]string{daemon.Busy: "1", daemon.Unavailable: "5"}[code]
				if got := a.Header.Get("Retry-After"); got != waits {
					t.Errorf("%s, %s: Retry-After %q, want %q", a.asked, code, got, waits)
				}
			}
		})
	}
}

// TestStates wants section 3's words, alone and in a list of changes.
func TestStates(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		f := kept()
		f.images["odd"] = image("odd", "", in("SOMETHING"))
		h := newHost(t, f)
		for id, want := range map[string]string{
			"active": `"status":"ACTIVE","progress":100`, "pending": `"status":"SAVING","progress":0`, "leaving": `"status":"DELETED","progress":0`,
			"error": `"status":"ERROR","progress":0`, "odd": `"status":"UNKNOWN","progress":0`,
		} {
			if a := h.ask("GET", e.path("/"+id), ""); a.Status != 200 || !strings.Contains(string(a.Body), want) {
				t.Errorf("%s: %d %s, want %s", a.asked, a.Status, a.Body, want)
			}
		}
		if a := h.ask("GET", e.path("/shared"), ""); a.Status != 200 {
			t.Errorf("who knows the id of a shared image may see it: %d", a.Status)
		}
	})
}
