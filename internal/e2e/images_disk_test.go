package e2e

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"path/filepath"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
)

// TestUploadsFillTheDisk sends more than the disk has room for, announced and not, through each door that takes bytes: its
// dialect's code, and nothing left behind once the image is given up.
func TestUploadsFillTheDisk(t *testing.T) {
	dir := smallDisk(t, 3<<30)
	h := newHost(t, dir, "capsule.disk_reserve_gb = 0")
	h.start()
	alice := as(t, "alice")
	kept := h.resumed(alice, h.awaitImage(alice, "kept", ""), 0, disk(mib))
	whole := disk(48 * mib)
	fill(t, dir, 24*mib)

	id := h.awaitImage(alice, "announced", fmt.Sprintf(`,"bytes":%d`, len(whole)))
	a := h.sent(alice, id, "", 0, whole)
	problem(t, a, 507, "exhausted", "not enough disk space")
	h.received(alice, id, 0)
	h.call(alice, 200, "DELETE", "/v1/images/"+id+"?later=true", "")
	h.kept(1)

	id = h.awaitImage(alice, "unannounced", "")
	a = h.begun(alice, id, whole)
	problem(t, a, 507, "exhausted", "not enough disk space")
	h.call(alice, 200, "DELETE", "/v1/images/"+id+"?later=true", "")
	h.kept(1)

	id = read[wire.Image](t, h.call(alice, 201, "POST", "/image/v2/images", `{"name":"by Glance","disk_format":"raw","container_format":"bare"}`)).ID
	h.call(alice, 413, "PUT", "/image/v2/images/"+id+"/file", string(whole), "Content-Type", "application/octet-stream")
	h.call(alice, 204, "DELETE", "/image/v2/images/"+id, "")
	h.kept(1)

	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("$$originalJSON", `{"name":"by Horizon","source_type":"file-legacy","disk_format":"raw"}`)
	part, err := w.CreateFormFile("data", "disk")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = part.Write(whole) // to memory
	_ = w.Close()
	h.call(alice, 413, "POST", "/api/glance/images/", form.String(), "Content-Type", w.FormDataContentType())
	h.complaint(t, 6, []string{"exhausted", "disk"}, "image", "add", "--name", "by capsulectl", "--upload", h.file("big", len(whole)))
	h.kept(1)
	if got := h.ctl("image", "list", "--quiet"); got != kept.ID {
		t.Errorf("images: %q, want %q", got, kept.ID)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "images", "incoming", "*")); err != nil || len(files) > 0 {
		t.Errorf("on the way: %v, %v", files, err)
	}
	if n := h.room(alice); n != 4 {
		t.Errorf("there is room for %d images, and the quota is 5, of which one is used", n)
	}
	h.export(alice, kept)
}

// begun sends the bytes of an image from the first, and says nothing of where they go.
func (h *host) begun(tok, id string, body []byte) answer {
	h.t.Helper()
	return h.ask(h.t, request{method: "PUT", path: "/v1/images/" + id + "/file", body: string(body),
		header: headers([]string{"X-Auth-Token", tok, "Content-Type", "application/octet-stream"})})
}
