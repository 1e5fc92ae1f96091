package synnefo_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/api/dialect"
)

// wire is the real server before a fake, reached with nothing in between that could tidy up a path.
type wire struct {
	t     *testing.T
	addr  string
	token string // of owner
}

func serve(t *testing.T, f *fake) *wire {
	t.Helper()
	const secret = "0123456789abcdef0123456789abcdef"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := api.New(api.Options{Daemon: f, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Metrics: http.NotFoundHandler(), SecretFile: file})
	if err != nil {
		t.Fatal(err)
	}
	l, err := api.ListenTCP(t.Context(), "127.0.0.1:0", api.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": owner.GUID, "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return &wire{t, l.Addr().String(), token}
}

// send writes one request as it is and reads what comes until the server hangs up.
func (w *wire) send(method, target, body string, headers ...string) (*http.Response, answer) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: images.example:8774\r\nConnection: close\r\nContent-Length: %d\r\n", method, target, len(body))
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&text, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if _, err := io.WriteString(conn, text.String()+"\r\n"+body); err != nil {
		w.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response, answer{t: w.t, asked: method + " " + target,
		Reply: dialect.Reply{Status: response.StatusCode, Header: response.Header, MediaType: response.Header.Get("Content-Type"), Body: read}}
}

// known sends a request of owner's.
func (w *wire) known(method, target, body string) (*http.Response, answer) {
	w.t.Helper()
	return w.send(method, target, body, "X-Auth-Token", w.token, "Content-Type", "application/json")
}

// TestIdentity is vector 11: who says not who he is reads version documents and nothing else, and is told so in the
// shape of the version.
func TestIdentity(t *testing.T) {
	w := serve(t, newFake(image(alpha, "", nil)))
	for _, path := range []string{"/api", "/api/", "/api.json", "/api.xml", "/api.atom", "/api/v1.1/", "/compute", "/compute/", "/compute.xml", "/compute/v2.0/"} {
		if _, a := w.send("GET", path, ""); a.Status != 200 || len(a.Body) == 0 {
			t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
		}
	}
	each(t, func(t *testing.T, e edition) {
		for _, path := range []string{"", ".xml", "/detail", "/" + alpha, "/" + alpha + "/META.xml", "/" + alpha + "/META/k.xml", "/no/such/path", "?X-Auth-Token=" + w.token} {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
				_, a := w.send(method, e.path(path), `{"metadata":{}}`)
				a.isFault(401, "unauthorized")
				if want := strings.HasSuffix(path, ".xml"); strings.HasPrefix(a.MediaType, "application/xml") != want || a.Header.Get("Www-Authenticate") == "" {
					t.Errorf("%s: %v", a.asked, a.Header)
				}
			}
		}
		_, a := w.send("GET", e.images, "", "X-Auth-Token", "rubbish")
		a.isFault(401, "unauthorized")
		if _, a := w.known("GET", e.images, ""); a.Status != 200 || !strings.Contains(string(a.Body), alpha) {
			t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
		}
	})
	_, a := w.send("POST", "/api/", "")
	a.isFault(401, "unauthorized")
	for _, path := range []string{"/api%2F", "/api/v1.1%2F", "/%61pi"} { // they decode to documents, and are nobody's
		if _, a := w.send("GET", path, ""); a.Status != 404 {
			t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
		}
	}
}

// TestPathsOverTheWire wants no key to be tidied up on its way.
func TestPathsOverTheWire(t *testing.T) {
	f := newFake(image(alpha, "", nil))
	w := serve(t, f)
	for path, key := range map[string]string{"a//b": "a//b", "../../x": "../../x", "a%2Fb": "a/b", "./": "./", "%2E%2E%2F": "../", "a+b%20c": "a+b c", "%E2%98%90": "☐"} {
		each(t, func(t *testing.T, e edition) {
			item := `{"meta":{"` + key + `":"v"}}`
			_, a := w.known("PUT", e.path("/"+alpha+"/META/"+path), item)
			a.is(201, item)
			if f.images[alpha].Metadata[key] != "v" {
				t.Errorf("%s: %v", a.asked, f.images[alpha].Metadata)
			}
			_, a = w.known("DELETE", e.path("/"+alpha+"/META/"+path), "")
			a.is(204, "")
		})
	}
	if n := len(f.images[alpha].Metadata); n != 0 {
		t.Errorf("%d items are left", n)
	}
}

// TestOverTheWire wants what only a server shows: links, lengths, no bodies where there are none, and the neighbours'
// paths left to them.
func TestOverTheWire(t *testing.T) {
	f := newFake(image(alpha, "", nil))
	w := serve(t, f)
	_, a := w.known("GET", s2.path("/"+alpha), "")
	if a.Status != 200 || !strings.Contains(string(a.Body), `"href":"http://images.example:8774/compute/v2.0/images/`+alpha+`"`) {
		t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
	}
	response, a := w.known("GET", s1.images+"?changes-since="+time.Now().Add(-time.Minute).UTC().Format(time.RFC3339), "")
	if a.Status != 304 || len(a.Body) != 0 || response.Header.Get("Content-Type") != "" {
		t.Errorf("%s: %d %v %s", a.asked, a.Status, response.Header, a.Body)
	}
	_, a = w.known("HEAD", s2.images, "")
	if a.Status != 405 || a.Header.Get("Allow") != "GET,POST" {
		t.Errorf("%s: %d %v", a.asked, a.Status, a.Header)
	}
	_, a = w.known("POST", s1.path("/"+alpha+"/META"), `{"metadata":{"a":"`+strings.Repeat("v", dialect.MaxBody)+`"}}`)
	a.isFault(413, "overLimit")
	hasHeaders(t, a)
	for _, path := range []string{"/api/glance/images/", "/compute/v2.1/images", "/api/v1.10/", "/compute.atom"} {
		if _, a := w.known("GET", path, ""); strings.Contains(string(a.Body), "details") {
			t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
		}
	}
	for _, verb := range f.asked {
		if verb == "set" || verb == "delete" {
			t.Errorf("a request that was refused asked for %s", verb)
		}
	}
}
