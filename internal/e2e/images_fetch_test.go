package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// serverOfImages is a program for the outside world: it serves a disk well, and in every way that is not.
const serverOfImages = `
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
disk, gate = open(sys.argv[1], 'rb').read(), sys.argv[2]
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def begin(self, length, **more):
        self.send_response(200)
        if length is not None: self.send_header('Content-Length', str(length))
        for name, value in more.items(): self.send_header(name.replace('_', '-'), value)
        self.end_headers()
    def do_GET(self):
        path, _, query = self.path.partition('?')
        if path == '/disk': self.begin(len(disk)); self.wfile.write(disk)
        elif path == '/unsized': self.begin(None); self.wfile.write(disk)
        elif path == '/to': self.send_response(302); self.send_header('Location', unquote(query)); self.end_headers()
        elif path == '/round': self.send_response(302); self.send_header('Location', self.path); self.end_headers()
        elif path == '/gzip': self.begin(len(disk), Content_Encoding='gzip'); self.wfile.write(disk)
        elif path == '/short': self.begin(2 * len(disk)); self.wfile.write(disk)
        elif path == '/huge': self.begin(2 << 30); self.wfile.write(disk)
        elif path == '/text': self.begin(5120); self.wfile.write(b'only text\n' * 512)
        elif path == '/drip':
            self.begin(len(disk))
            for byte in disk: self.wfile.write(bytes([byte])); time.sleep(0.5)
        elif path == '/gate':
            self.begin(len(disk)); self.wfile.write(disk[:len(disk) // 2])
            while not os.path.exists(gate): time.sleep(0.05)
            self.wfile.write(disk[len(disk) // 2:])
        else: self.send_error(404)
class Metadata(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        with open(gate + '.met', 'a') as met: met.write('x')
        self.send_response(200); self.end_headers()
threading.Thread(target=ThreadingHTTPServer(('169.254.169.254', 18099), Metadata).serve_forever, daemon=True).start()
ThreadingHTTPServer((sys.argv[3], 8000), Handler).serve_forever()
`

// fetching is a host that fetches from such a server.
type fetching struct {
	*host
	alice, digest string
	gate          string // a file: while it is there, /gate goes on to its end
}

const imageServer = "http://" + testhost.WorldAddr + ":8000"

// fetch asks for an image from a URL.
func (f *fetching) fetch(name, url, more string) (image string, op string) {
	f.t.Helper()
	a := f.call(f.alice, 202, "POST", "/v1/images", fmt.Sprintf(`{"name":%q,"url":%q%s}`, name, url, more))
	return read[wire.Accepted](f.t, a).ID, operationOf(a)
}

// fails wants a fetch to end with a code and some words, and to leave an ERROR behind that says why, and nothing else.
func (f *fetching) fails(image, op, code, words string) {
	f.t.Helper()
	if got := f.ended(op); got.State != "failed" || got.Code != code || !strings.Contains(got.Cause, words) {
		f.t.Errorf("want %s and %q, got %s: %q", code, words, got.Code, got.Cause)
	}
	if diff := cmp.Diff(failed, f.views(f.alice, image)); diff != "" {
		f.t.Errorf("of what was not fetched: %s", diff)
	}
}

// TestFetch fetches images from a server of the outside world, which is led astray, cut, slow, killed and cancelled.
func TestFetch(t *testing.T) {
	dir := t.TempDir()
	whole := disk(4 * mib)
	script, file := filepath.Join(dir, "server.py"), filepath.Join(dir, "disk")
	for name, b := range map[string][]byte{script: []byte(serverOfImages), file: whole} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := startHost(t, "images.max_gb = 1", `images.fetch_schemes = ["http"]`, "quota.images = 50",
		// Hosts that no address of the rules lets through, so that these have to.
		`images.fetch_hosts = ["`+testhost.WorldAddr+`:8000", "169.254.169.254:18099", "127.0.0.1:18099", "localhost:18099", "192.168.53.1:18099", "`+testhost.HostAddr+`:18099", "[::1]:18099"]`,
		`images.fetch_private_networks = ["192.168.0.0/16"]`)
	f := &fetching{host: h, alice: as(t, "alice"), digest: digestOf(whole), gate: filepath.Join(dir, "gate")}
	// Where clouds keep secrets of a host: in the outside world, since an address of the host's own is closed by that.
	must(combined(testhost.World(t.Context(), "ip", "addr", "add", "169.254.169.254/32", "dev", "lo")))(t)
	t.Cleanup(func() {
		must(combined(testhost.World(context.Background(), "ip", "addr", "del", "169.254.169.254/32", "dev", "lo")))(t)
	})
	server := testhost.World(t.Context(), "python3", script, file, f.gate, testhost.WorldAddr)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		conn, err := net.Dial("tcp", testhost.WorldAddr+":8000")
		if err == nil {
			conn.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	slow, slowly := f.fetch("slow", imageServer+"/drip", "") // ends by itself while the others are tried
	f.fetched(whole)
	f.astray()
	f.broken()
	f.fails(slow, slowly, "unavailable", "too slowly")
	f.interrupted()
	h.kept(1)
	for _, i := range read[wire.ImageList](t, h.call(f.alice, 200, "GET", "/v1/images", "")).Images {
		h.ctl("image", "delete", "--yes", "--wait", i.ID)
	}
	h.kept(0)
	if n := h.room(f.alice); n != 50 {
		t.Errorf("there is room for %d images, and the quota is 50", n)
	}
}

func (f *fetching) fetched(whole []byte) {
	t := f.t
	for name, row := range map[string][2]string{
		"digest": {"/disk", fmt.Sprintf(`,"digest":%q,"format":"raw"`, f.digest)}, "recorded": {"/unsized", ""}, "redirected": {"/to?/to?%2Fdisk", ""},
	} {
		id, op := f.fetch("fetched "+name, imageServer+row[0], row[1])
		if got := f.ended(op); got.State != "succeeded" {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		if image := f.becomes(f.alice, id, "ACTIVE"); image.Digest != f.digest || string(f.export(f.alice, image)) != string(whole) {
			t.Errorf("%s: %+v", name, image)
		}
	}
	if id := f.ctl("image", "add", "--name", "by capsulectl", "--public", "--digest", f.digest, imageServer+"/disk"); f.becomes(f.alice, id, "ACTIVE").Digest != f.digest {
		t.Errorf("by capsulectl: %s", id)
	}
	f.ctl("image", "delete", "--yes", "--wait", "by capsulectl")
	a := f.call(f.alice, 201, "POST", "/api/glance/images/", fmt.Sprintf(`{"name":"by Horizon","source_type":"url","image_url":%q,"import_data":true}`, imageServer+"/disk"))
	f.becomes(f.alice, read[wire.Image](t, a).ID, "ACTIVE")
	f.oneImage()
}

// astray leads the daemon to where it must not go. That it was led there anybody could tell who listens there.
func (f *fetching) astray() {
	t := f.t
	everywhere, err := net.Listen("tcp", ":18099")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	var met atomic.Int64
	go func() {
		for {
			conn, err := everywhere.Accept()
			if err != nil {
				return
			}
			met.Add(1)
			conn.Close()
		}
	}()
	const address, host, scheme = "an address that images are not fetched from", "images are not fetched from", "scheme"
	for url, words := range map[string]string{
		"http://169.254.169.254:18099/latest/meta-data/": address, "http://127.0.0.1:18099/": address, "http://localhost:18099/": address,
		"http://192.168.53.1:18099/": address, "http://" + testhost.HostAddr + ":18099/": address, "http://[::1]:18099/": address,
		"http://" + testhost.WorldAddr + ":18099/": host, "http://other.example.org/": host, "http://127.1:18099/": host, "http://2130706433:18099/": host,
		"https://" + testhost.WorldAddr + ":8000/disk": scheme, "ftp://" + testhost.WorldAddr + ":8000/disk": scheme,
	} {
		image, op := f.fetch("direct", url, "")
		f.fails(image, op, "invalid", words)
		image, op = f.fetch("led", imageServer+"/to?"+strings.NewReplacer("%", "%25", " ", "%20").Replace(url), "")
		f.fails(image, op, "invalid", words)
	}
	for url, words := range map[string]string{
		imageServer + "/to?file:///etc/passwd": scheme, imageServer + "/round": "redirected more than", "file:///etc/passwd": "no URL with a host",
		"http://alice:secret@" + testhost.WorldAddr + ":8000/disk": "a name or a password", imageServer + "/to?http://a:b@" + testhost.WorldAddr + ":8000/disk": "a name",
	} {
		image, op := f.fetch("direct", url, "")
		f.fails(image, op, "invalid", words)
		if a := f.call(f.alice, 200, "GET", "/v1/operations/"+op, ""); strings.Contains(a.body, "secret") {
			t.Errorf("it repeats a password: %s", a.body)
		}
	}
	if n := met.Load(); n != 0 {
		t.Errorf("%d connections were made to where none may be", n)
	}
	// There was somebody to be met there, and this is the first who does.
	must(command(t, "curl", "-sSf", "http://169.254.169.254:18099/"))(t)
	if b, err := os.ReadFile(f.gate + ".met"); err != nil || string(b) != "x" {
		t.Errorf("where clouds keep secrets there were %d calls, %v; want the test's own", len(b), err)
	}
	f.oneImage()
}

// oneImage wants no more than one image in the store, and what comes slowly on the way.
func (f *fetching) oneImage() {
	f.t.Helper()
	for pattern, most := range map[string]int{"images/*.*": 1, "images/incoming/*": 1} {
		if files, err := filepath.Glob(filepath.Join(f.dir, pattern)); err != nil || len(files) > most {
			f.t.Errorf("%s: %v, %v; want %d", pattern, files, err, most)
		}
	}
}

// broken meets a server that does not give an image, or not this one.
func (f *fetching) broken() {
	for path, want := range map[string][3]string{
		"/missing": {"", "unavailable", "404"}, "/gzip": {"", "invalid", "compressed on the way"}, "/short": {"", "unavailable", "before all of it came"},
		"/huge": {"", "invalid", "more than"}, "/text": {"", "invalid", "partition table"},
		"/disk?a":  {fmt.Sprintf(`,"digest":%q`, digestOf(nil)), "invalid", "was announced"},
		"/disk?b=": {`,"format":"qcow2"`, "invalid", "was announced"},
	} {
		image, op := f.fetch("broken "+path, imageServer+path, want[0])
		f.fails(image, op, want[1], want[2])
	}
	problem(f.t, f.call(f.alice, 400, "POST", "/v1/images", `{"name":"x","url":"http://a/","path":"/etc/passwd"}`), 400, "invalid", "exclude")
	f.oneImage()
}

// interrupted cancels a fetch, and kills the daemon in the middle of another.
func (f *fetching) interrupted() {
	t := f.t
	halfway := func(op string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := rig.Until(ctx, func() error {
			files, _ := filepath.Glob(filepath.Join(f.dir, "images", "incoming", "*"))
			for _, file := range files {
				if info, err := os.Stat(file); err == nil && info.Size() >= 2*mib {
					return nil
				}
			}
			return fmt.Errorf("operation %s has not brought half of it: %v", op, files)
		}); err != nil {
			t.Fatal(err)
		}
	}
	image, op := f.fetch("cancelled", imageServer+"/gate", "")
	halfway(op)
	problem(t, f.call(as(t, "bob"), 404, "POST", "/v1/operations/"+op+"/cancel", ""), 404, "not_found")
	f.call(f.alice, 202, "POST", "/v1/operations/"+op+"/cancel", "")
	f.fails(image, op, "conflict", "cancelled by alice")
	f.call(f.alice, 409, "POST", "/v1/operations/"+op+"/cancel", "")
	f.oneImage()

	image, op = f.fetch("killed", imageServer+"/gate", fmt.Sprintf(`,"digest":%q`, f.digest))
	halfway(op)
	f.crash()
	if diff := cmp.Diff(saving, f.views(f.alice, image)); diff != "" && !cmp.Equal(queued, f.views(f.alice, image)) {
		t.Errorf("after the crash: %s", diff)
	}
	if err := os.WriteFile(f.gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := f.ended(op); got.State != "succeeded" {
		t.Errorf("a fetch under which the daemon died: %+v", got)
	}
	f.becomes(f.alice, image, "ACTIVE")
	f.oneImage()
}

func combined(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	return string(out), err
}
