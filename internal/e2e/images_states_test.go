package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
)

// lists are where each dialect lists images without being asked for those that are deleted.
var lists = []struct{ dialect, path string }{
	{"native", "/v1/images"}, {"capsule", "/listmyimages"}, {"nova 2.1", "/v2.1/images/detail"}, {"nova 2", "/v2/images"},
	{"synnefo 1.1", "/api/v1.1/images/detail"}, {"synnefo 2.0", "/compute/v2.0/images"}, {"horizon", "/api/glance/images/"}, {"glance", "/image/v2/images"},
}

// listed are the dialects in whose plain lists an image is.
func (h *host) listed(tok, id string) (in []string) {
	h.t.Helper()
	for _, l := range lists {
		a := h.call(tok, 200, "GET", l.path, "")
		if !json.Valid([]byte(a.body)) {
			h.t.Errorf("%s: %s", l.path, brief(a.body))
		}
		if strings.Contains(a.body, id) {
			in = append(in, l.dialect)
		}
	}
	return in
}

// TestImageStates walks an image that is sent from its record to its tombstone, and looks at each step through every
// dialect (images contract, vector 13).
func TestImageStates(t *testing.T) {
	h := startHost(t)
	alice := as(t, "alice")
	began := time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
	bytes := disk(2 << 20)
	id := h.awaitImage(alice, "walk", "")
	all := []string{"native", "capsule", "nova 2.1", "nova 2", "synnefo 1.1", "synnefo 2.0", "horizon", "glance"}
	step := func(name string, want map[string]string, in []string) {
		t.Helper()
		if diff := cmp.Diff(want, h.views(alice, id)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := h.listed(alice, id); !slices.Equal(got, in) {
			t.Errorf("%s, it is in the lists of %v, and should be in those of %v", name, got, in)
		}
		strangers := maps.Clone(deleted)
		strangers["native"], strangers["capsule"] = "404", "400"
		if diff := cmp.Diff(strangers, h.views(as(t, "bob"), id)); diff != "" {
			t.Errorf("%s, to a stranger: %s", name, diff)
		}
	}
	step("as a record", queued, all)
	refused(t, h.post(alice, "/createvm", map[string][]string{"imageid": {id}, "loginusername": {"u"}, "loginpassword": {"p"}, "memory": {"256"}}), 400, "conflict", "SHARE_PENDING")
	h.put(alice, 200, id, "", 0, bytes[:1<<20])
	step("with some of its bytes", saving, all)
	for _, d := range []struct{ path, metadata, words string }{ // what needs an ACTIVE image
		{"/v2.1/images/", "/metadata", "conflictingRequest"}, {"/v2/images/", "/metadata", "conflictingRequest"},
		{"/api/v1.1/images/", "/meta", "buildInProgress"}, {"/compute/v2.0/images/", "/metadata", "buildInProgress"},
	} {
		for _, a := range []answer{h.call(alice, 409, "POST", d.path+id+d.metadata, `{"metadata":{"a":"b"}}`), h.call(alice, 409, "DELETE", d.path+id, "")} {
			if !strings.Contains(a.body, d.words) {
				t.Errorf("%s says %s", d.path, brief(a.body))
			}
		}
	}
	step("when nobody deleted it", saving, all)
	for _, path := range []string{"/image/v2/images/%s", "/api/glance/images/%s/"} { // who makes images may give them up
		other := h.awaitImage(alice, "given up", "")
		h.call(alice, 204, "DELETE", fmt.Sprintf(path, other), "")
		h.becomes(alice, other, "DELETED")
	}
	a := h.put(alice, 202, id, "?finish=true", 1<<20, bytes[1<<20:])
	if op := h.ended(operationOf(a)); op.State != "succeeded" {
		t.Fatalf("%+v", op)
	}
	step("with all of them", active, all)
	h.call(alice, 200, "POST", "/v2.1/images/"+id+"/metadata", `{"metadata":{"a":"b"}}`)

	h.call(alice, 204, "DELETE", "/v2.1/images/"+id, "")
	step("once it is deleted", leaving, nil)
	h.call(alice, 403, "DELETE", "/v2.1/images/"+id, "")
	for path, status := range map[string]int{"/v2/images/%s": 403, "/api/v1.1/images/%s": 404, "/compute/v2.0/images/%s": 404, "/api/glance/images/%s/": 404, "/image/v2/images/%s": 404} {
		h.call(alice, status, "DELETE", fmt.Sprintf(path, id), "")
	}
	h.call(alice, 403, "POST", "/v2.1/images/"+id+"/metadata", `{"metadata":{"c":"d"}}`)
	h.call(alice, 409, "POST", "/v2/images/"+id+"/metadata", `{"metadata":{"c":"d"}}`)
	h.ctl("image", "gc")
	h.becomes(alice, id, "DELETED")
	step("once it is collected", deleted, nil)
	for _, path := range []string{"/v2.1/images/%s/metadata", "/v2/images/%s/metadata", "/api/v1.1/images/%s/meta", "/compute/v2.0/images/%s/metadata"} {
		h.call(alice, 404, "POST", fmt.Sprintf(path, id), `{"metadata":{"c":"d"}}`)
	}
	h.kept(0)

	// Who asks what has changed is told of it still.
	for _, path := range []string{"/v2.1/images/detail", "/v2/images/detail", "/api/v1.1/images/detail", "/compute/v2.0/images/detail"} {
		a := h.call(alice, 200, "GET", path+"?changes-since="+began, "")
		if !strings.Contains(a.body, id) || !strings.Contains(a.body, `"DELETED"`) {
			t.Errorf("%s since it began: %s", path, brief(a.body))
		}
	}
	later := time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	for path, status := range map[string]int{"/v2.1/images": 200, "/api/v1.1/images": 400, "/compute/v2.0/images": 400} {
		if a := h.call(alice, status, "GET", path+"?changes-since="+later[:len(later)-3]+"59Z", ""); status == 200 && a.body != `{"images":[]}` {
			t.Errorf("%s since the future: %s", path, brief(a.body))
		}
	}
	h.statesOfFailure(alice)
}

// statesOfFailure sends what is no image: it is an ERROR that says why, in every dialect, until it is deleted.
func (h *host) statesOfFailure(alice string) {
	t := h.t
	t.Helper()
	id := h.awaitImage(alice, "bad", "")
	a := h.put(alice, 202, id, "?finish=true", 0, []byte(strings.Repeat("it is only text\n", 1024)))
	if op := h.ended(operationOf(a)); op.State != "failed" || op.Code != "invalid" || !strings.Contains(op.Cause, "partition table") {
		t.Errorf("%+v", op)
	}
	if diff := cmp.Diff(failed, h.views(alice, id)); diff != "" {
		t.Errorf("of what is no image: %s", diff)
	}
	if tomb := h.becomes(alice, id, "ERROR"); tomb.DeletedAt == nil || tomb.Name != "" || !strings.Contains(tomb.Cause, "partition table") {
		t.Errorf("the tombstone: %+v", tomb)
	}
	if list := read[wire.ImageInfoList](t, h.call(alice, 200, "GET", "/listmyimages", "")); len(list.ImageInfo) != 1 || list.ImageInfo[0].ImageStatus != "ERROR" {
		t.Errorf("listmyimages: %+v", list)
	}
	h.call(alice, 200, "GET", "/checkimagename?imageName=bad", "")
	problem(t, h.put(alice, 409, id, "", 0, disk(1<<20)), 409, "gone")
	h.call(alice, 204, "DELETE", "/v2.1/images/"+id, "")
	if diff := cmp.Diff(deleted, h.views(alice, id)); diff != "" {
		t.Errorf("of what was no image, once it is deleted: %s", diff)
	}
	h.call(alice, http.StatusOK, "GET", "/v1/images?state=any", "")
	h.kept(0)
}
