package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
)

const octets = "Content-Type: application/octet-stream"

// await makes an image whose bytes are awaited; announced is how many, "" when nobody says.
func await(t *testing.T, h *host, announced string) (path string) {
	t.Helper()
	a := h.local(t, "POST", "/v1/images", `{"name":"n"`+announced+`}`)
	if a.StatusCode != 201 || a.Header.Get("Operation-Location") != "" {
		t.Fatal(a.StatusCode, a.body)
	}
	return a.Header.Get("Location") + "/file"
}

func (h *host) bytesOf(path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.images[strings.Split(path, "/")[3]].bytes)
}

func TestUpload(t *testing.T) {
	h := start(t, nil)
	path := await(t, h, `,"bytes":10`)
	for _, row := range []struct {
		name, method, query, body string
		head                      []string
		status                    int
		offset, text              string
	}{
		{"nothing yet", "HEAD", "", "", nil, 200, "0", ""},
		{"a first piece", "PUT", "", "abc", []string{octets}, 200, "3", `{"received":3,"bytes":10}`},
		{"how far", "HEAD", "", "", nil, 200, "3", ""},
		{"in the wrong place", "PUT", "", "xyz", []string{octets, "Upload-Offset: 5"}, 409, "3", "3 bytes have come"},
		{"in the wrong place by its range", "PUT", "", "xyz", []string{octets, "Content-Range: bytes 0-2/10"}, 409, "3", "3 bytes have come"},
		{"the next piece", "PUT", "", "def", []string{octets, "Upload-Offset: 3"}, 200, "6", `{"received":6,"bytes":10}`},
		{"from the beginning", "PUT", "", "01234", []string{octets}, 200, "5", `{"received":5,"bytes":10}`},
		{"of another size", "PUT", "", "5", []string{octets, "Content-Range: bytes 5-5/11"}, 400, "5", "11 bytes, and 10 were announced"},
		{"too early an end", "PUT", "?finish=true", "", nil, 409, "", "5 bytes have come"},
		{"no bytes before they are there", "GET", "", "", nil, 409, "", "SHARE_PENDING"},
		{"the last piece", "PUT", "", "56789", []string{octets, "Content-Range: bytes 5-9/*"}, 202, "", `"kind":"image-add"`},
		{"after the end", "PUT", "", "x", []string{octets, "Upload-Offset: 10"}, 409, "", "ACTIVE"},
		{"the whole", "GET", "", "", nil, 200, "", "0123456789"},
	} {
		a := h.local(t, row.method, path+row.query, row.body, row.head...)
		if a.StatusCode != row.status || a.Header.Get("Upload-Offset") != row.offset || !strings.Contains(a.body, row.text) {
			t.Errorf("%s: %d %v %s", row.name, a.StatusCode, a.Header, a.body)
		}
		if row.offset != "" && a.Header.Get("Upload-Length") != "10" {
			t.Errorf("%s: %v", row.name, a.Header)
		}
		if (row.status == 202) != (a.Header.Get("Operation-Location") != "") {
			t.Errorf("%s: %v", row.name, a.Header)
		}
	}
}

// The end is said by the one who sends, when the size was not; by Content-Range, by finish, or by finish alone.
func TestUploadOfUnknownSize(t *testing.T) {
	h := start(t, nil)
	for _, row := range []struct{ query, body, head, last string }{
		{"", "abc", "Content-Range: bytes 0-2/3", ""},
		{"?finish=TRUE", "abc", "Upload-Offset: 0", ""},
		{"", "abc", "Upload-Offset: 0", "?finish=true"},
	} {
		path := await(t, h, "")
		a := h.local(t, "PUT", path+row.query, row.body, octets, row.head)
		if row.last != "" {
			if a.StatusCode != 200 || a.Header.Get("Upload-Length") != "" || !strings.Contains(a.body, `{"received":3,"bytes":-1}`) {
				t.Errorf("%+v: %d %v %s", row, a.StatusCode, a.Header, a.body)
			}
			a = h.local(t, "PUT", path+row.last, "")
		}
		if a.StatusCode != 202 || h.bytesOf(path) != "abc" {
			t.Errorf("%+v: %d %s, %q", row, a.StatusCode, a.body, h.bytesOf(path))
		}
	}
}

// A body is held to its Content-Range, whether it says its length before or, chunked, not until its end: no more is kept than the
// range has, nothing of an image that is said to have another size than was announced, and a refusal tells how much is there.
func TestUploadByRange(t *testing.T) {
	h := start(t, nil)
	for _, row := range []struct {
		name, announced, place, body string
		status                       int // of a chunked body
		kept, text                   string
		early                        string // why a body is refused before any of it is read that says its length; "" when it is not
	}{
		{"all of it", "", "bytes 3-9/10", "defghij", 202, "abcdefghij", `"kind":"image-add"`, ""},
		{"a piece", "", "bytes 3-4/10", "de", 200, "abcde", `{"received":5,"bytes":-1}`, ""},
		{"a piece of nobody knows how much", "", "bytes 3-4/*", "de", 200, "abcde", `{"received":5,"bytes":-1}`, ""},
		{"more than the range", "", "bytes 3-9/10", strings.Repeat("x", 5000), 400, "abcxxxxxxx", "has 7 bytes, and the body more", "has 7 bytes, and the body 5000"},
		{"more than the range of some", "", "bytes 3-4/*", "defg", 400, "abcde", "has 2 bytes, and the body more", "has 2 bytes, and the body 4"},
		{"more than the range of what was announced", `,"bytes":10`, "bytes 3-9/10", "defghijk", 400, "abcdefghij", "has 7 bytes, and the body more", "has 7 bytes, and the body 8"},
		{"less than the range", "", "bytes 3-9/10", "defg", 400, "abcdefg", "has 7 bytes, and the body 4", "has 7 bytes, and the body 4"},
		{"nothing of the range", "", "bytes 3-9/10", "", 400, "abc", "has 7 bytes, and the body 0", "has 7 bytes, and the body 0"},
		{"in another place", "", "bytes 4-4/10", "e", 409, "abc", "3 bytes have come", ""},
		{"of another size", `,"bytes":10`, "bytes 3-4/11", "de", 400, "abc", "has 11 bytes, and 10 were announced", ""},
		{"the end of another size", `,"bytes":10`, "bytes 3-4/5", "de", 400, "abc", "has 5 bytes, and 10 were announced", ""},
	} {
		for _, chunked := range []bool{true, false} {
			path := await(t, h, row.announced)
			h.local(t, "PUT", path, "abc", octets)
			req := request(t, "PUT", "http://capsuled"+path, row.body, octets, "Content-Range: "+row.place)
			status, kept, told, text := row.status, row.kept, strconv.Itoa(len(row.kept)), row.text
			switch {
			case chunked:
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader(row.body)), -1
			case row.early != "":
				status, kept, told, text = 400, "abc", "", row.early
			}
			if status == 202 {
				told = ""
			}
			a := do(t, h.unix, req)
			if a.StatusCode != status || !strings.Contains(a.body, text) || h.bytesOf(path) != kept || a.Header.Get("Upload-Offset") != told {
				t.Errorf("%s, chunked %t: %d %v %s, kept %q", row.name, chunked, a.StatusCode, a.Header, a.body, h.bytesOf(path))
			}
			if status < 400 || len(kept) == 10 {
				continue
			}
			rest := "abcdefghij"[len(kept):] // it goes on where it was told
			a = h.local(t, "PUT", path, rest, octets, fmt.Sprintf("Content-Range: bytes %d-9/10", len(kept)))
			if a.StatusCode != 202 || h.bytesOf(path) != kept+rest {
				t.Errorf("%s, chunked %t, the rest: %d %s, %q", row.name, chunked, a.StatusCode, a.body, h.bytesOf(path))
			}
		}
	}
}

// What came before the connection was cut is there, and HEAD says how much it is.
func TestUploadThatIsCut(t *testing.T) {
	h := start(t, nil)
	path := await(t, h, `,"bytes":1000`)
	conn := must[net.Conn](t)(net.Dial("unix", h.socket))
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: 1000\r\n\r\n%s", path, octets, strings.Repeat("x", 600))
	for h.bytesOf(path) != strings.Repeat("x", 600) { // not all may have been read yet
		time.Sleep(time.Millisecond)
	}
	conn.Close()
	if a := h.local(t, "HEAD", path, ""); a.Header.Get("Upload-Offset") != "600" {
		t.Errorf("%v", a.Header)
	}
	if a := h.local(t, "PUT", path, strings.Repeat("y", 400), octets, "Upload-Offset: 600"); a.StatusCode != 202 {
		t.Error(a.StatusCode, a.body)
	}
	if got := h.bytesOf(path); got != strings.Repeat("x", 600)+strings.Repeat("y", 400) {
		t.Error(got)
	}
}

// Nothing of a body is asked for that will be refused: a client that waits for "100 Continue" keeps it.
func TestUploadRefusedBeforeItsBody(t *testing.T) {
	h := start(t, nil)
	conn := must[net.Conn](t)(net.Dial("unix", h.socket))
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /v1/images/image-1/file HTTP/1.1\r\nHost: x\r\n%s\r\nUpload-Offset: 0\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n", octets)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 409 {
		t.Error(resp, err)
	}
}

func TestExport(t *testing.T) {
	h := start(t, nil)
	tag, whole := `"`+jammyDigest+`"`, len(jammy)
	for _, row := range []struct {
		name, method string
		head         []string
		status       int
		length       string
		body         string
	}{
		{"all", "GET", nil, 200, "65536", jammy},
		{"its head", "HEAD", nil, 200, "65536", ""},
		{"a range", "GET", []string{"Range: bytes=10-19"}, 206, "10", jammy[10:20]},
		{"the rest", "GET", []string{"Range: bytes=65530-"}, 206, "6", jammy[65530:]},
		{"the end", "GET", []string{"Range: bytes=-4"}, 206, "4", "cdef"},
		{"a range of these bytes", "GET", []string{"Range: bytes=0-0", "If-Range: " + tag}, 206, "1", "0"},
		{"a range of other bytes", "GET", []string{"Range: bytes=0-0", `If-Range: "sha256:00"`}, 200, "65536", jammy},
		{"what one has", "GET", []string{"If-None-Match: " + tag}, 304, "", ""},
		{"other than one has", "GET", []string{`If-Match: "sha256:00"`}, 412, "", ""},
	} {
		a := h.local(t, row.method, "/v1/images/image-1/file", "", row.head...)
		if a.StatusCode != row.status || a.body != row.body || a.Header.Get("Content-Length") != row.length && row.length != "" || a.Header.Get("Etag") != tag {
			t.Errorf("%s: %d %v, %d bytes", row.name, a.StatusCode, a.Header, len(a.body))
		}
		if row.status < 300 && (a.Header.Get("Content-Type") != "application/octet-stream" ||
			a.Header.Get("Content-Disposition") != "attachment; filename=jammy.qcow2" ||
			a.Header.Get("Repr-Digest") != "sha-256=:2LKvHIXNtFiOl4rtWHXhLL/SD2gAmCPPkUtAz0HY5M4=:") {
			t.Errorf("%s: %v", row.name, a.Header)
		}
	}
	a := h.local(t, "GET", "/v1/images/image-1/file", "", fmt.Sprintf("Range: bytes=%d-", whole))
	if a.StatusCode != 416 || a.Header.Get("Content-Range") != "bytes */65536" || a.Header.Get("Content-Disposition") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	checkEnvelope(t, a, true)
}

// A name is somebody's text, and a header is read by browsers.
func TestExportedNames(t *testing.T) {
	h := start(t, nil)
	for name, want := range map[string]string{
		"two words":     `attachment; filename="two words.qcow2"`,
		`a"; x="b`:      `attachment; filename="a\"; x=\"b.qcow2"`,
		"../../etc/x":   "attachment; filename=x.qcow2",
		`..\..\x`:       "attachment; filename=x.qcow2",
		"...":           "attachment; filename=image-1.qcow2",
		"":              "attachment; filename=image-1.qcow2",
		"café":          "attachment; filename*=utf-8''caf%C3%A9.qcow2",
		"a\r\nX-Y: z":   "attachment; filename*=utf-8''a%0D%0AX-Y%3A%20z.qcow2",
		"\u202egpj.exe": "attachment; filename*=utf-8''%E2%80%AEgpj.exe.qcow2",
	} {
		h.set(func(f *fakeDaemon) { f.images["image-1"].Name = name })
		a := h.local(t, "HEAD", "/v1/images/image-1/file", "")
		if got := a.Header.Get("Content-Disposition"); got != want || a.Header.Get("X-Y") != "" {
			t.Errorf("%q: %s", name, got)
		}
	}
}

// pipes is a listener whose connections are in memory, so that they obey the clock of a test. They look like TCP.
type pipes struct {
	dialed chan net.Conn
	closed chan struct{}
}

type pipe struct{ net.Conn }

func (pipe) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

func (p pipes) Addr() net.Addr { return pipe{}.LocalAddr() }
func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialed:
		return pipe{c}, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// inTime runs a story with a connection to a server whose clock moves when everybody waits.
func inTime(t *testing.T, story func(t *testing.T, h *host, conn net.Conn, token string)) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{fakeDaemon: newFake(), log: &logBuffer{}, secret: t.TempDir() + "/secret"}
		write(t, h.secret, secret, 0o600)
		server := must[*api.Server](t)(api.New(options(h)))
		h.server = server
		l := pipes{make(chan net.Conn), make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		ours, theirs := net.Pipe()
		l.dialed <- theirs
		h.set(func(f *fakeDaemon) {
			f.images["image-2"] = &fakeImage{awaited: -1, Image: daemon.Image{ID: "image-2", State: daemon.ImagePending}}
		})
		story(t, h, ours, bearerOf(t, map[string]any{"sub": "alice"}))
		ours.Close()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func putChunked(conn net.Conn, token string) {
	fmt.Fprintf(conn, "PUT /v1/images/image-2/file?finish=true HTTP/1.1\r\nHost: x\r\n%s\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n", token, octets)
}

func putChunk(conn net.Conn, size int) error {
	_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", size, strings.Repeat("x", size))
	return err
}

// A body that is a file takes the time that it takes: no limit of the server cuts it, and its reply is not lost.
func TestSlowUpload(t *testing.T) {
	inTime(t, func(t *testing.T, h *host, conn net.Conn, token string) {
		putChunked(conn, token)
		for range 30 { // ten minutes
			time.Sleep(20 * time.Second)
			if err := putChunk(conn, 20<<10); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprint(conn, "0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 202 {
			t.Fatal(resp, err)
		}
		if got := len(h.bytesOf("/v1/images/image-2")); got != 30*20<<10 {
			t.Error(got)
		}
	})
}

// A body that stands still is ended, and so is one that drips.
func TestIdleUploads(t *testing.T) {
	for _, row := range []struct {
		name  string
		every time.Duration
	}{{"stands still", time.Hour}, {"drips", 10 * time.Second}} {
		t.Run(row.name, func(t *testing.T) {
			inTime(t, func(t *testing.T, h *host, conn net.Conn, token string) {
				began := time.Now()
				putChunked(conn, token)
				go func() {
					for putChunk(conn, 1) == nil {
						time.Sleep(row.every)
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != 503 {
					t.Error(resp, err)
				}
				if took := time.Since(began); took != 30*time.Second { // of the test's own clock
					t.Errorf("it ended after %s", took)
				}
				conn.Close()
				time.Sleep(time.Hour) // until the other goroutine has seen it
			})
		})
	}
}

// A reader may be slow, and must not stand still.
func TestSlowExport(t *testing.T) {
	for _, row := range []struct {
		name  string
		pause time.Duration
		all   bool
	}{{"slow", 20 * time.Second, true}, {"stands still", 40 * time.Second, false}} {
		t.Run(row.name, func(t *testing.T) {
			inTime(t, func(t *testing.T, h *host, conn net.Conn, token string) {
				h.set(func(f *fakeDaemon) { f.images["image-1"].bytes = []byte(strings.Repeat(jammy, 8)) })
				fmt.Fprintf(conn, "GET /v1/images/image-1/file HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", token)
				in := bufio.NewReaderSize(conn, 64<<10)
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatal(resp, err)
				}
				got := int64(0)
				for {
					time.Sleep(row.pause)
					n, err := io.CopyN(io.Discard, resp.Body, 32<<10)
					if got += n; err != nil {
						break
					}
				}
				if (got == int64(8*len(jammy))) != row.all {
					t.Errorf("%d bytes", got)
				}
			})
		})
	}
}

// A long poll lasts as long as it was asked to, though the server's own limit of reading passes meanwhile.
func TestLongPollInTime(t *testing.T) {
	inTime(t, func(t *testing.T, h *host, conn net.Conn, token string) {
		began := time.Now()
		h.set(func(f *fakeDaemon) {
			f.ops = append(f.ops, &fakeOperation{Operation: daemon.Operation{ID: "op-9", State: daemon.OperationRunning, Started: began}, ended: make(chan struct{})})
		})
		fmt.Fprintf(conn, "GET /v1/operations/op-9?wait=50 HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		if took := time.Since(began); took != 50*time.Second { // of the test's own clock
			t.Errorf("it was answered after %s", took)
		}
	})
}

// Nobody who sends or takes a file, and stands still, keeps the server from its end: what is cut goes on where it was, or is
// asked for again.
func TestFilesDoNotHoldUpTheEnd(t *testing.T) {
	const there, awaited = "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10", "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a11"
	chunked := func(line, kind, head string) string {
		return fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%%s\r\n\r\n%x\r\n%s\r\n", line, kind, len(head), head)
	}
	for name, sent := range map[string]string{
		"native upload":   chunked("PUT /v1/images/image-2/file", "application/octet-stream", "x"),
		"native export":   "GET /v1/images/image-1/file HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n",
		"Glance upload":   chunked("PUT /image/v2/images/"+awaited+"/file", "application/octet-stream", "x"),
		"Glance download": "GET /image/v2/images/" + there + "/file HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n",
		"Horizon's form":  chunked("POST /api/glance/images/", "multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"n"),
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, h *host, conn net.Conn, token string) {
				h.set(func(f *fakeDaemon) {
					f.images["image-1"].bytes = []byte(strings.Repeat(jammy, 8))
					f.images[there] = f.images["image-1"]
					f.images[awaited] = &fakeImage{awaited: -1, Image: daemon.Image{ID: awaited, State: daemon.ImagePending}}
				})
				fmt.Fprintf(conn, sent, token)
				if !strings.HasPrefix(sent, "GET") {
					go func() { _, _ = io.Copy(io.Discard, conn) }()
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				if err := h.server.Shutdown(ctx); err != nil {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}
