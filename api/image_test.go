package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/internal/golden"
)

// The image calls of the capsule dialect, from a capsule to its image's end.
func TestCapsuleImagesGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	tr.local(t, "POST", "/createvm", createForm)
	share := "vmId=" + firstCapsule + "&imageName=my+image&imageDescription=one%0D%0Atwo&public=False"
	tr.call(t, "POST", "/shareimage", share)
	tr.set(func(f *fakeDaemon) { f.capsules[firstCapsule].State = daemon.Shutdown })
	tr.call(t, "GET", "/checkimagename?imageName=my+image", "")
	tr.call(t, "POST", "/sloan-ws/shareimage", share)
	tr.call(t, "GET", "/checkimagename?imageName=my+image", "")
	tr.call(t, "GET", "/checkimagename", "")
	tr.call(t, "GET", "/listactiveimages", "")
	tr.call(t, "PUT", "/activateimage", "imageId=image-2")
	tr.call(t, "PUT", "/activateimage", "imageId=image-2")
	tr.call(t, "PUT", "/shareimage", "imageId=image-2&imageName=ours&imageDescription=&public=true")
	tr.call(t, "GET", "/getimage?imageId=image-2", "")
	tr.call(t, "GET", "/getimage?imageId=image-9", "")
	tr.call(t, "GET", "/sloan-ws/getimage", "")
	tr.call(t, "DELETE", "/deleteimage", "imageId=image-2")
	tr.call(t, "PUT", "/requestimagedelete", "imageId=image-2")
	tr.call(t, "GET", "/listmyimages", "")
	tr.call(t, "GET", "/listallimages", "")
	tr.call(t, "DELETE", "/sloan-ws/deleteimage", "imageId=image-2")
	tr.call(t, "PUT", "/requestimagedelete", "imageId=image-2")
	tr.call(t, "GET", "/deleteimage", "")
	golden.Check(t, "capsuleimage", tr.String())
}

// The native calls about records.
func TestNativeImagesGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	tr.call(t, "POST", "/v1/images", `{"name":"awaited","bytes":10,"visibility":"shared","protected":true,"metadata":{"k":"v"}}`)
	tr.call(t, "POST", "/v1/images", `{"name":"fetched","url":"https://images.example.org/x.qcow2","digest":"`+jammyDigest+`","min_disk_gb":5,"min_ram_mb":64,"format":"qcow2"}`)
	tr.call(t, "GET", "/v1/images?name=awaited&state=SHARE_PENDING&owner=root&visibility=shared&limit=1", "")
	tr.call(t, "GET", "/v1/images?state=any&limit=1&marker=image-1", "")
	tr.call(t, "GET", "/v1/images?marker=image-9", "")
	tr.call(t, "PATCH", "/v1/images/image-2", `{"name":"early"}`)
	tr.call(t, "PATCH", "/v1/images/image-1", `{"name":"noble","description":"a\r\nb","visibility":"community","metadata":{"os":"bsd","k":""}}`)
	tr.call(t, "PATCH", "/v1/images/image-1", `{"remove_metadata":["os"]}`)
	tr.call(t, "PATCH", "/v1/images/image-1", `{"remove_metadata":["os"]}`)
	tr.call(t, "POST", "/v1/images/image-1/verify", "")
	tr.call(t, "POST", "/v1/operations/op-2/cancel", "")
	tr.end("op-2", "")
	tr.call(t, "POST", "/v1/operations/op-2/cancel", "")
	tr.call(t, "DELETE", "/v1/images/image-1?later=true", "")
	tr.call(t, "PATCH", "/v1/images/image-1", `{"description":"late"}`)
	tr.call(t, "POST", "/v1/images/gc?dry_run=true", "")
	tr.call(t, "POST", "/v1/images/gc", "")
	tr.call(t, "POST", "/v1/images/gc", "")
	tr.local(t, "POST", "/createvm", strings.Replace(createForm, "image-1", "image-2", 1))
	tr.set(func(f *fakeDaemon) { f.capsules[firstCapsule].State = daemon.Shutdown })
	tr.call(t, "POST", "/v1/capsules/"+firstCapsule+"/share", `{"name":"shared","description":"d","public":true}`)
	golden.Check(t, "image", tr.String())
}

// What the verbs of images get is what was sent, in normal form.
func TestImagesReachTheDaemon(t *testing.T) {
	h := start(t, nil)
	for _, row := range []struct{ method, path, body string }{
		{"POST", "/v1/images", `{"name":"n","path":"/p","public":true,"min_disk_gb":1,"min_ram_mb":2,"login_user":"u","login_password":"p"}`},
		{"POST", "/v1/images", `{"name":"n","description":"d","bytes":7,"protected":true,"format":"raw","digest":"` + jammyDigest + `","metadata":{"a":"b"}}`},
		{"POST", "/v1/images", `{"name":"n","url":"https://h/x","visibility":"community"}`},
		{"PATCH", "/v1/images/image-1", `{"protected":false,"min_disk_gb":0,"min_ram_mb":5,"login_user":"","login_password":"x","metadata":{"a":"b"},"replace_metadata":true}`},
		{"PATCH", "/v1/images/image-1", `{"visibility":"shared","remove_metadata":["a"]}`},
		{"PUT", "/shareimage", "imageId=image-1&imageName=m&imageDescription=&public=false"}, // it is shared: nothing to say
		{"PUT", "/shareimage", "imageId=image-1&imageName=m&imageDescription=d&public=TRUE"},
		{"PUT", "/shareimage", "imageId=image-1&imageName=m&imageDescription=d&public=false"},
		{"GET", "/v1/images?name=x&owner=alice&visibility=private&limit=5&state=any", ""},
		{"GET", "/v1/images?name=&marker=image-1", ""},
		{"GET", "/listmyimages", ""}, {"GET", "/listallimages", ""}, {"GET", "/listactiveimages", ""},
	} {
		if a := h.local(t, row.method, row.path, row.body); a.StatusCode > 202 && !strings.Contains(row.path, "marker") {
			t.Errorf("%s %s: %d %s", row.method, row.path, a.StatusCode, a.body)
		}
	}
	text := func(s string) *string { return &s }
	whole := func(n int) *int { return &n }
	seen := func(v daemon.Visibility) *daemon.Visibility { return &v }
	every := []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageDeletePending, daemon.ImageDeleted, daemon.ImageError}
	no := false
	type all struct {
		Added   []daemon.NewImage
		Changes []daemon.ImageChange
		Queries []daemon.ImageQuery
	}
	want := all{[]daemon.NewImage{
		{Name: "n", Visibility: daemon.Public, Path: "/p", Bytes: -1, MinDiskGB: 1, MinRAMMB: 2, LoginUser: "u", LoginPassword: "p"},
		{Name: "n", Description: "d", Visibility: daemon.Private, Bytes: 7, Protected: true, Format: "raw", Digest: jammyDigest, Metadata: map[string]string{"a": "b"}},
		{Name: "n", Visibility: daemon.Community, URL: "https://h/x", Bytes: -1},
	}, []daemon.ImageChange{
		{Protected: &no, MinDiskGB: whole(0), MinRAMMB: whole(5), LoginUser: text(""), LoginPassword: text("x"),
			SetMetadata: map[string]string{"a": "b"}, ReplaceMetadata: true, MustRemove: true},
		{Visibility: seen(daemon.Shared), RemoveMetadata: []string{"a"}, MustRemove: true},
		{Name: text("m"), Description: text("")},
		{Name: text("m"), Description: text("d"), Visibility: seen(daemon.Public)},
		{Name: text("m"), Description: text("d"), Visibility: seen(daemon.Private)},
	}, []daemon.ImageQuery{
		{Name: text("x"), Owner: "alice", Visibility: daemon.Private, Limit: 5, States: every},
		{Name: text(""), Marker: "image-1"},
		{Own: true, States: []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageError}},
		{States: every}, {States: []daemon.ImageState{daemon.ImageActive}},
	}}
	if diff := cmp.Diff(want, all{h.added, h.changes, h.queries}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever the daemon knows of an image, no dialect tells a path of the host.
func TestImagesTellNoPath(t *testing.T) {
	h := start(t, nil)
	h.local(t, "POST", "/v1/images", `{"name":"n","path":"/srv/hidden.img"}`)
	for _, path := range []string{"/listallimages", "/getimage?imageId=image-2", "/v1/images", "/v1/images/image-2"} {
		if a := h.local(t, "GET", path, ""); a.StatusCode != 200 || strings.Contains(a.body, "hidden") {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	var info wire.ImageInfo
	if err := json.Unmarshal([]byte(h.local(t, "GET", "/getimage?imageId=image-1", "").body), &info); err != nil || info.ImagePath != jammyDigest {
		t.Errorf("%+v %v", info, err)
	}
}
