package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
)

// call asks over TCP with a token, and wants a status. A body is JSON unless a header says otherwise.
func (h *host) call(tok string, want int, method, path, body string, header ...string) answer {
	h.t.Helper()
	r := request{method: method, path: path, body: body, header: http.Header{"X-Auth-Token": {tok}, "X-Requested-With": {"XMLHttpRequest"}}}
	if body != "" {
		r.header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.header.Set(header[i], header[i+1])
	}
	a := h.ask(h.t, r)
	if a.status != want {
		h.t.Errorf("%s %s: %d %s, want %d", method, path, a.status, brief(a.body), want)
	}
	return a
}

// read decodes the body of an answer.
func read[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%d %s: %v", a.status, brief(a.body), err)
	}
	return v
}

// views are where each dialect shows one image, and the words that it has for its state.
var views = []struct{ dialect, path string }{
	{"native", "/v1/images/%s"},
	{"capsule", "/getimage?imageId=%s"},
	{"nova 2.1", "/v2.1/images/%s"},
	{"nova 2", "/v2/images/%s"},
	{"synnefo 1.1", "/api/v1.1/images/%s"},
	{"synnefo 2.0", "/compute/v2.0/images/%s"},
	{"horizon", "/api/glance/images/%s/"},
	{"glance", "/image/v2/images/%s"},
}

// views asks every dialect for the state of an image: the word and the progress, or the status of a refusal.
func (h *host) views(tok, id string) map[string]string {
	h.t.Helper()
	seen := map[string]string{}
	for _, v := range views {
		a := h.ask(h.t, request{method: "GET", path: fmt.Sprintf(v.path, id),
			header: http.Header{"X-Auth-Token": {tok}, "X-Requested-With": {"XMLHttpRequest"}}})
		if a.status != 200 {
			seen[v.dialect] = strconv.Itoa(a.status)
			continue
		}
		image := read[map[string]any](h.t, a)
		if inner, ok := image["image"].(map[string]any); ok {
			image = inner
		}
		for _, key := range []string{"state", "imageStatus", "status"} {
			if word, ok := image[key].(string); ok {
				seen[v.dialect] = word
			}
		}
		if n, ok := image["progress"].(float64); ok {
			seen[v.dialect] += fmt.Sprintf("/%.0f", n)
		}
	}
	return seen
}

// What every dialect says of an image in each part of its life (images contract, section 3).
var (
	queued = map[string]string{"native": "SHARE_PENDING", "capsule": "SHARE_PENDING", "nova 2.1": "SAVING/25", "nova 2": "SAVING/25",
		"synnefo 1.1": "SAVING/0", "synnefo 2.0": "SAVING/0", "horizon": "queued", "glance": "queued"}
	saving = map[string]string{"native": "SHARE_PENDING", "capsule": "SHARE_PENDING", "nova 2.1": "SAVING/50", "nova 2": "SAVING/50",
		"synnefo 1.1": "SAVING/0", "synnefo 2.0": "SAVING/0", "horizon": "saving", "glance": "saving"}
	active = map[string]string{"native": "ACTIVE", "capsule": "ACTIVE", "nova 2.1": "ACTIVE/100", "nova 2": "ACTIVE/100",
		"synnefo 1.1": "ACTIVE/100", "synnefo 2.0": "ACTIVE/100", "horizon": "active", "glance": "active"}
	leaving = map[string]string{"native": "DELETE_PENDING", "capsule": "DELETE_PENDING", "nova 2.1": "DELETED/0", "nova 2": "DELETED/0",
		"synnefo 1.1": "DELETED/0", "synnefo 2.0": "DELETED/0", "horizon": "pending_delete", "glance": "404"}
	deleted = map[string]string{"native": "DELETED", "capsule": "DELETED", "nova 2.1": "404", "nova 2": "404",
		"synnefo 1.1": "404", "synnefo 2.0": "404", "horizon": "404", "glance": "404"}
	failed = map[string]string{"native": "ERROR", "capsule": "ERROR", "nova 2.1": "ERROR/0", "nova 2": "ERROR/0",
		"synnefo 1.1": "ERROR/0", "synnefo 2.0": "ERROR/0", "horizon": "killed", "glance": "killed"}
)

// awaitImage begins an image whose bytes are sent later.
func (h *host) awaitImage(tok, name, more string) string {
	h.t.Helper()
	return read[wire.Image](h.t, h.call(tok, 201, "POST", "/v1/images", fmt.Sprintf(`{"name":%q%s}`, name, more))).ID
}

// put sends bytes of an image to where they belong, once the daemon wants them: who is refused while it sends may find the
// connection reset before it reads why.
func (h *host) put(tok string, want int, id, query string, offset int, body []byte) answer {
	h.t.Helper()
	header := []string{"Content-Type", "application/octet-stream", "Expect", "100-continue"}
	if offset >= 0 {
		header = append(header, wire.UploadOffsetHeader, strconv.Itoa(offset))
	}
	return h.call(tok, want, "PUT", "/v1/images/"+id+"/file"+query, string(body), header...)
}

// ended waits for an operation, and returns how it ended.
func (h *host) ended(id string) wire.Operation {
	h.t.Helper()
	_, _ = h.Ctl(h.t.Context(), "operation", "wait", id) // it may fail
	var op wire.Operation
	if err := json.Unmarshal([]byte(h.ctl("operation", "show", "--json", id)), &op); err != nil || op.Ended == nil {
		h.t.Fatalf("operation %s: %+v, %v", id, op, err)
	}
	return op
}

// operationOf is the id of the operation that an answer began.
func operationOf(a answer) string { return filepath.Base(a.header.Get(wire.OperationHeader)) }

// becomes waits until an image is in a state.
func (h *host) becomes(tok, id, state string) (image wire.Image) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if image = read[wire.Image](h.t, h.call(tok, 200, "GET", "/v1/images/"+id, "")); image.State != state {
			err := fmt.Errorf("image %s is %s (%s), and should become %s", id, image.State, image.Cause, state)
			if image.State == "ERROR" {
				return rig.Final(err)
			}
			return err
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return image
}

// room is how many images a user's quota still allows, found by using it up and giving it back.
func (h *host) room(tok string) (n int) {
	h.t.Helper()
	var made []string
	for {
		a := h.ask(h.t, request{path: "/v1/images", body: fmt.Sprintf(`{"name":"room %d"}`, n), header: http.Header{"X-Auth-Token": {tok}, "Content-Type": {"application/json"}}})
		if a.status != 201 {
			problem(h.t, a, 403, "over_quota", "quota of images")
			break
		}
		made = append(made, read[wire.Image](h.t, a).ID)
		n++
	}
	for _, id := range made {
		h.call(tok, 200, "DELETE", "/v1/images/"+id+"?later=true", "")
	}
	return n
}

// kept wants that what is under way ends, and that the store then holds so many images, and nothing on the way.
func (h *host) kept(images int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		for _, op := range h.operations(h.t) {
			if op.State == "running" {
				return fmt.Errorf("still under way: %+v", op)
			}
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	for pattern, want := range map[string]int{"images/*.*": images, "images/incoming/*": 0} {
		if files, err := filepath.Glob(filepath.Join(h.dir, pattern)); err != nil || len(files) != want {
			h.t.Errorf("%s: %v, %v; want %d", pattern, files, err, want)
		}
	}
}

// export reads an image's bytes over HTTP, and holds them against the digests that came with them.
func (h *host) export(tok string, image wire.Image) []byte {
	h.t.Helper()
	a := h.call(tok, 200, "GET", "/v1/images/"+image.ID+"/file", "")
	if got := digestOf([]byte(a.body)); got != image.Digest || int64(len(a.body)) != image.FileBytes || a.header.Get("Etag") != strconv.Quote(got) {
		h.t.Errorf("the export has %d bytes and is %s with ETag %s; the image has %d and is %s", len(a.body), got, a.header.Get("Etag"), image.FileBytes, image.Digest)
	}
	return []byte(a.body)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// gate is before every qemu-img that the image store of a daemon runs. It is open until somebody holds it.
type gate struct{ program, closed string }

// newGate makes one for the daemons that the test starts from now on.
func newGate(t *testing.T) *gate {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "gate") // nobody, as whom the program runs, can enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	real, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{filepath.Join(dir, "qemu-img"), filepath.Join(dir, "closed")}
	script := fmt.Sprintf("#!/bin/sh\nwhile [ -e %s ]; do sleep 0.05; done\nexec %s \"$@\"\n", g.closed, real)
	if err := errors.Join(os.WriteFile(g.program, []byte(script), 0o755), os.Chmod(g.program, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return g
}

// hold closes the gate, does what comes to it, and returns when it has. Then release opens it.
func (g *gate) hold(t *testing.T, do func()) (release func()) {
	t.Helper()
	if err := os.WriteFile(g.closed, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	release = func() { _ = os.Remove(g.closed) }
	t.Cleanup(release)
	do()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if out, err := command(t, "pgrep", "-u", "nobody", "-f", g.program); err != nil {
			return fmt.Errorf("nothing came to the gate: %w %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return release
}

// share asks for an image of a capsule in the capsule dialect.
func (h *host) share(tok, capsule, name, public string) answer {
	h.t.Helper()
	return h.post(tok, "/shareimage", url.Values{"vmId": {capsule}, "imageName": {name}, "imageDescription": {"what a capsule became"}, "public": {public}})
}
