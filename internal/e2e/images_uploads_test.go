package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
)

const mib = 1 << 20

// sending is a PUT that has begun and does not end by itself.
func (h *host) sending(tok, id string, offset, total int, part []byte) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:18080")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "PUT /v1/images/%s/file HTTP/1.1\r\nHost: capsuled\r\nX-Auth-Token: %s\r\nContent-Type: application/octet-stream\r\n%s: %d\r\nContent-Length: %d\r\n\r\n",
		id, tok, wire.UploadOffsetHeader, offset, total)
	if _, err := conn.Write(part); err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// received waits until so many bytes of an image are there.
func (h *host) received(tok, id string, n int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if got := h.call(tok, 200, "HEAD", "/v1/images/"+id+"/file", "").header.Get(wire.UploadOffsetHeader); got != strconv.Itoa(n) {
			return fmt.Errorf("%s bytes of image %s are there, and should be %d", got, id, n)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}

// later asks again while the daemon has not noticed that who sent before is gone.
func (h *host) later(ask func() answer) (a answer) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if a = ask(); a.status == 409 && a.header.Get(wire.ErrorCodeHeader) == "busy" {
			return errors.New(a.body)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return a
}

// sent is a PUT of bytes at an offset, once the daemon wants them: who is refused while it sends may find the connection
// reset before it reads why.
func (h *host) sent(tok, id, query string, offset int, body []byte) answer {
	h.t.Helper()
	return h.ask(h.t, request{method: "PUT", path: "/v1/images/" + id + "/file" + query, body: string(body), header: http.Header{
		"X-Auth-Token": {tok}, "Content-Type": {"application/octet-stream"}, "Expect": {"100-continue"}, wire.UploadOffsetHeader: {strconv.Itoa(offset)}}})
}

// resumed sends the rest of an image and waits for it.
func (h *host) resumed(tok, id string, offset int, rest []byte) wire.Image {
	h.t.Helper()
	if a := h.later(func() answer { return h.sent(tok, id, "?finish=true", offset, rest) }); a.status != 202 {
		h.t.Fatalf("the rest of image %s: %d %s", id, a.status, a.body)
	}
	return h.becomes(tok, id, "ACTIVE")
}

// crash ends the daemon as a power cut would, and starts it again.
func (h *host) crash() {
	h.t.Helper()
	h.Kill()
	h.start()
}

// TestUploads sends images, in ways in which that goes wrong.
func TestUploads(t *testing.T) {
	g := newGate(t)
	h := startHost(t, "quota.images = 10")
	alice := as(t, "alice")
	for _, part := range []struct {
		name string
		test func(*host, string)
	}{
		{"cut", (*host).uploadCut}, {"not what was announced", (*host).uploadOther}, {"two at once", (*host).uploadTwice},
		{"killed", func(h *host, tok string) { h.uploadKilled(g, tok) }}, {"capsulectl", (*host).uploadByCtl}, {"damaged", (*host).verifyDamage},
	} {
		t.Run(part.name, func(t *testing.T) {
			h := h.within(t)
			part.test(h, alice)
			for _, i := range read[wire.ImageList](t, h.call(alice, 200, "GET", "/v1/images", "")).Images {
				h.ctl("image", "delete", "--yes", "--wait", i.ID)
			}
			h.kept(0)
			if n := h.room(alice); n != 10 {
				t.Errorf("there is room for %d images, and the quota is 10", n)
			}
		})
	}
}

func (h *host) uploadCut(alice string) {
	t, whole := h.t, disk(5*mib+4096)
	id := h.awaitImage(alice, "cut", fmt.Sprintf(`,"bytes":%d,"digest":%q`, len(whole), digestOf(whole)))
	const half = 2*mib + 512 // the daemon writes whole megabytes, and what is left when the connection is cut
	conn := h.sending(alice, id, 0, len(whole), whole[:half])
	h.received(alice, id, 2*mib)
	conn.Close()
	h.received(alice, id, half)
	a := h.later(func() answer { return h.sent(alice, id, "", 3*mib, whole[3*mib:]) })
	problem(t, a, 409, "conflict", strconv.Itoa(half))
	if a.header.Get(wire.UploadOffsetHeader) != strconv.Itoa(half) || a.header.Get(wire.UploadLengthHeader) != strconv.Itoa(len(whole)) {
		t.Errorf("it does not say where to go on: %v", a.header)
	}
	problem(t, h.put(alice, 409, id, "?finish=true", -1, nil), 409, "conflict", "announced")
	problem(t, h.put(as(t, "bob"), 404, id, "", half, whole[half:]), 404, "not_found")
	image := h.resumed(alice, id, half, whole[half:])
	if image.Digest != digestOf(whole) || !bytes.Equal(h.export(alice, image), whole) {
		t.Errorf("what was sent in two parts is not what was sent: %+v", image)
	}
	h.ranges(alice, id, whole)
}

// ranges reads parts of an image.
func (h *host) ranges(tok, id string, whole []byte) {
	t, path, n := h.t, "/v1/images/"+id+"/file", len(whole)
	t.Helper()
	for asked, want := range map[string][]byte{"bytes=0-99": whole[:100], "bytes=512-": whole[512:], "bytes=-7": whole[n-7:], fmt.Sprintf("bytes=%d-%d", mib, n+5): whole[mib:]} {
		a := h.call(tok, 206, "GET", path, "", "Range", asked)
		if a.body != string(want) || a.header.Get(wire.ReprDigestHeader) == "" || !strings.HasSuffix(a.header.Get("Content-Range"), fmt.Sprintf("/%d", n)) {
			t.Errorf("%s: %d bytes, want %d; %v", asked, len(a.body), len(want), a.header)
		}
	}
	problem(t, h.call(tok, 416, "GET", path, "", "Range", fmt.Sprintf("bytes=%d-", n)), 416, "invalid")
	if a := h.call(tok, 200, "GET", path, "", "Range", "bytes=0-99", "If-Range", `"sha256:0"`); len(a.body) != n {
		t.Errorf("a part of another image: %d bytes", len(a.body))
	}
	if a := h.call(tok, 200, "HEAD", path, ""); a.header.Get("Content-Length") != strconv.Itoa(n) || a.header.Get("Etag") != strconv.Quote(digestOf(whole)) {
		t.Errorf("HEAD: %v", a.header)
	}
}

func (h *host) uploadOther(alice string) {
	t, whole := h.t, disk(2*mib)
	for name, more := range map[string]string{"digest": fmt.Sprintf(`,"digest":%q`, digestOf(whole[1:])), "format": `,"format":"qcow2"`} {
		id := h.awaitImage(alice, "another "+name, more)
		a := h.put(alice, 202, id, "?finish=true", 0, whole)
		if op := h.ended(operationOf(a)); op.State != "failed" || op.Code != "invalid" || !strings.Contains(op.Cause, "announced") {
			t.Errorf("with another %s: %+v", name, op)
		}
		h.becomes(alice, id, "ERROR")
		h.kept(0)
	}
	id := h.awaitImage(alice, "longer", fmt.Sprintf(`,"bytes":%d`, mib))
	problem(t, h.put(alice, 400, id, "", 0, append(disk(mib), 0)), 400, "invalid", "more than")
	h.received(alice, id, 0)
	whole = disk(mib)
	h.put(alice, 200, id, "", 0, whole[:mib/2])
	problem(t, h.put(alice, 400, id, "", mib/2, append(whole[mib/2:mib:mib], 0)), 400, "invalid", "more than")
	h.received(alice, id, mib/2)
	problem(t, h.put(alice, 409, id, "?finish=true", -1, nil), 409, "conflict", "announced")
	h.resumed(alice, id, mib/2, whole[mib/2:])
	problem(t, h.put(alice, 409, id, "", 0, whole), 409, "conflict", "ACTIVE")
	for _, header := range [][]string{
		{"Content-Type", "text/plain"}, {"Content-Encoding", "gzip"}, {"Content-Range", "bytes 0-0/1", wire.UploadOffsetHeader, "0"},
		{"Content-Range", "bytes 5-1/9"}, {wire.UploadOffsetHeader, "-1"}, {wire.UploadOffsetHeader, "1e3"},
	} {
		a := h.ask(t, request{method: "PUT", path: "/v1/images/" + id + "/file", body: "x", header: headers(append([]string{"X-Auth-Token", alice, "Content-Type", "application/octet-stream"}, header...))})
		if a.status != 400 && a.status != 415 {
			t.Errorf("%v: %d %s", header, a.status, a.body)
		}
	}
}

func headers(list []string) http.Header {
	out := http.Header{}
	for i := 0; i < len(list); i += 2 {
		out.Set(list[i], list[i+1])
	}
	return out
}

func (h *host) uploadTwice(alice string) {
	t, whole := h.t, disk(4*mib)
	id := h.awaitImage(alice, "wanted", "")
	conn := h.sending(alice, id, 0, len(whole), whole[:2*mib])
	h.received(alice, id, 2*mib)
	problem(t, h.put(alice, 409, id, "", 2*mib, whole[2*mib:]), 409, "busy", "sends bytes")
	problem(t, h.put(alice, 409, id, "?finish=true", -1, nil), 409, "busy", "sends bytes")

	// Beside it others come, two of them with the same bytes.
	var all sync.WaitGroup
	bodies := [][]byte{disk(3 * mib), disk(2 * mib), nil}
	bodies[2] = bodies[0]
	images := make([]wire.Image, len(bodies))
	for i, body := range bodies {
		id := h.awaitImage(alice, fmt.Sprint("beside ", i), "")
		all.Go(func() { images[i] = h.resumed(alice, id, 0, body) })
	}
	all.Wait()
	for i, image := range images {
		if image.Digest != digestOf(bodies[i]) {
			t.Errorf("image %d: %+v", i, image)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(h.dir, "images", "*.raw")); len(files) != 2 {
		t.Errorf("three images with two contents are %v", files)
	}
	h.ctl("image", "delete", "--yes", "--wait", images[0].ID)
	h.export(alice, images[2])

	// Its owner gives up what is still on its way; who sends it learns that.
	h.call(alice, 200, "DELETE", "/v1/images/"+id+"?later=true", "")
	_, _ = conn.Write(whole[2*mib:]) // it may be closed by now
	reply, err := io.ReadAll(conn)
	if err != nil && len(reply) == 0 || len(reply) > 0 && !bytes.HasPrefix(reply, []byte("HTTP/1.1 4")) {
		t.Errorf("who sends what was given up reads %q, %v", reply, err)
	}
}

func (h *host) uploadKilled(g *gate, alice string) {
	t, whole := h.t, disk(4*mib)
	id := h.awaitImage(alice, "killed", fmt.Sprintf(`,"digest":%q`, digestOf(whole)))
	h.put(alice, 200, id, "", 0, whole[:mib])
	conn := h.sending(alice, id, mib, 3*mib, whole[mib:3*mib])
	h.received(alice, id, 3*mib)
	h.crash()
	conn.Close()
	h.received(alice, id, 3*mib)
	if image := h.resumed(alice, id, 3*mib, whole[3*mib:]); !bytes.Equal(h.export(alice, image), whole) {
		t.Error("an upload that was gone on with after a crash is not what was sent")
	}

	// While the bytes are looked at.
	id = h.awaitImage(alice, "inspected", "")
	var a answer
	release := g.hold(t, func() { a = h.put(alice, 202, id, "?finish=true", 0, disk(2*mib)) })
	h.crash()
	release()
	if op := h.ended(operationOf(a)); op.State != "succeeded" {
		t.Errorf("an image that was looked at when the daemon died: %+v", op)
	}
	h.becomes(alice, id, "ACTIVE")
	h.kept(2)

	// While a capsule is shared.
	capsule := h.aliceCapsule(h.image())
	release = g.hold(t, func() { a = h.share(alice, capsule, "share", "false") })
	h.crash()
	release()
	h.wait(a)
	h.becomes(alice, read[wire.ImageInfo](t, a).ImageID, "ACTIVE")
	if st := h.status(capsule); st.State != "SHUTDOWN" {
		t.Errorf("a capsule that was shared when the daemon died is %s", st.State)
	}
	h.kept(4)

	// One whose bytes do not survive: the file was removed meanwhile.
	file := h.file("vanishes", 64*mib)
	release = g.hold(t, func() { id = h.ctl("image", "add", "--name", "vanishes", "--wait=false", file) })
	h.Kill()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	release()
	h.start()
	if op := h.ended(h.operations(t)[0].ID); op.State != "failed" || op.Target != id || !strings.Contains(op.Cause, "no such file") {
		t.Errorf("an import without its source: %+v", op)
	}
	h.kept(4)
	h.ctl("delete", "--yes", "--wait", capsule)
	h.ctl("image", "delete", "--yes", "--wait", "guest")
}

// ctlWith runs capsulectl with something on standard input.
func (h *host) ctlWith(in []byte, args ...string) (stdout []byte, err error) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), h.Programs.Capsulectl, append([]string{"--socket", h.Socket}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	return cmd.Output()
}

func (h *host) uploadByCtl(string) {
	t, whole := h.t, disk(9*mib+512)
	out, err := h.ctlWith(whole, "image", "add", "--name", "piped", "--digest", digestOf(whole), "--property", "os=none", "-")
	id := strings.TrimSpace(string(out))
	if err != nil {
		t.Fatal(id, err)
	}
	for _, bad := range [][]string{{"--name", "other", "--digest", digestOf(nil), "-"}, {"--name", "other", "--format", "qcow2", "-"}} {
		if out, err := h.ctlWith(whole, append([]string{"image", "add"}, bad...)...); err == nil {
			t.Errorf("image add %v: %s", bad, out)
		}
	}
	if _, err := h.ctlWith(nil, "image", "add", "--name", "nothing", "-"); err == nil {
		t.Error("an image of nothing was added")
	}
	h.kept(1)
	to := filepath.Join(t.TempDir(), "exported")
	h.ctl("image", "export", "piped", to)
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("exported to a file: %d bytes, %v", len(b), err)
	}
	if err := errors.Join(os.Remove(to), os.WriteFile(to+".part", whole[:5*mib], 0o600)); err != nil {
		t.Fatal(err)
	}
	h.ctl("image", "export", id, to) // goes on where an earlier one ended
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("exported in two parts: %d bytes, %v", len(b), err)
	}
	if out, err := h.ctlWith(nil, "image", "export", id, "-"); err != nil || !bytes.Equal(out, whole) {
		t.Errorf("exported to a pipe: %d bytes, %v", len(out), err)
	}
	h.ctl("image", "delete", "--yes", "--wait", "piped")
}

func (h *host) verifyDamage(alice string) {
	t := h.t
	image := h.resumed(alice, h.awaitImage(alice, "damaged", ""), 0, disk(3*mib))
	h.ctl("image", "verify", "--wait", image.ID)
	file := filepath.Join(h.dir, "images", strings.TrimPrefix(image.Digest, "sha256:")+".raw")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	was := make([]byte, 1)
	if _, err := f.ReadAt(was, 2*mib); err != nil {
		t.Fatal(err)
	}
	flip := func(b byte) {
		if _, err := f.WriteAt([]byte{b}, 2*mib); err != nil {
			t.Fatal(err)
		}
	}
	flip(was[0] ^ 1)
	h.complaint(t, 8, []string{image.ID, "internal"}, "image", "verify", "--wait", image.ID)
	op := h.operations(t)[0]
	if op.Kind != "image-verify" || op.State != "failed" || !slices.ContainsFunc([]string{"corrupt", "not those"}, func(w string) bool { return strings.Contains(op.Cause, w) }) {
		t.Errorf("the operation does not say what was found: %+v", op)
	}
	if got := h.becomes(alice, image.ID, "ACTIVE"); got.Digest != image.Digest {
		t.Errorf("the image: %+v", got)
	}
	flip(was[0])
	h.ctl("image", "verify", "--wait", image.ID)
}
