package imagestore_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// listenWorld listens in the outside world: a socket stays in the network that it was made in.
func listenWorld(t testing.TB, port string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, which is in another network, ends with the goroutine
		var world *os.File
		if world, err = os.Open("/run/netns/world"); err != nil {
			return
		}
		defer world.Close()
		if err = unix.Setns(int(world.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", net.JoinHostPort(testhost.WorldAddr, port))
		}
	}()
	if <-done; err != nil {
		t.Fatal(err)
	}
	return l
}

// site is a server in the outside world, by TLS and without, that answers for any name.
type site struct {
	tls, plain string // host:port
	roots      *x509.CertPool
	requests   atomic.Int64
}

func serve(t testing.TB, handler http.Handler) *site {
	t.Helper()
	if err := names(); err != nil {
		t.Fatal(err)
	}
	w := &site{roots: x509.NewCertPool()}
	counted := http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		w.requests.Add(1)
		handler.ServeHTTP(out, in)
	})
	quiet := slog.NewLogLogger(slog.DiscardHandler, 0)
	for _, secure := range []bool{true, false} {
		server := httptest.NewUnstartedServer(counted)
		server.Listener.Close()
		server.Listener, server.Config.ErrorLog = listenWorld(t, "0"), quiet
		if secure {
			server.StartTLS()
			w.tls = server.Listener.Addr().String()
			w.roots.AddCert(server.Certificate()) // for example.com and below
		} else {
			server.Start()
			w.plain = server.Listener.Addr().String()
		}
		t.Cleanup(func() {
			server.CloseClientConnections()
			server.Close()
		})
	}
	return w
}

// names are what this test host's names lead to, written once since the resolver remembers for seconds what it read.
var names = sync.OnceValue(func() error {
	hosts := "127.0.0.1 localhost\n"
	for name, address := range map[string]string{
		"example.com": testhost.WorldAddr, "example.org": testhost.WorldAddr, "self.example.com": testhost.HostAddr,
		"rebound.example.com": "127.0.0.1", "six.example.com": "::1", "mapped.example.com": "::ffff:127.0.0.1",
		"metadata.example.com": "169.254.169.254", "ten.example.com": "10.1.2.3",
	} {
		hosts += address + " " + name + "\n"
	}
	return errors.Join(os.WriteFile("/etc/hosts", []byte(hosts), 0o644),
		os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.1\n"), 0o644)) // where nobody listens
})

func port(address string) string { return address[strings.LastIndex(address, ":"):] }

// rules allow the site by TLS under one name.
func (w *site) rules() imagestore.FetchRules {
	return imagestore.FetchRules{Allow: []string{"example.com" + port(w.tls)}, Roots: w.roots}
}

func (w *site) url(path string) string { return "https://example.com" + port(w.tls) + path }

func TestFetch(t *testing.T) {
	path := rawDisk(t, 1, 32*mib)
	var asked http.Header
	w := serve(t, http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		asked = in.Header.Clone()
		if in.URL.Path == "/moved" {
			http.SetCookie(out, &http.Cookie{Name: "session", Value: "x"})
			http.Redirect(out, in, "/disk.raw?token=s3cret", http.StatusFound)
			return
		}
		if in.URL.Path == "/chunked" {
			out.(http.Flusher).Flush()
		}
		http.ServeFile(out, in, path)
	}))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s, dir := newStore(t)
	for _, tt := range []struct {
		path string
		sum  imagestore.Digest
	}{{"/disk.raw", digestOf(t, path)}, {"/disk.raw", ""}, {"/moved?from=1", ""}, {"/chunked", ""}} {
		t.Run(tt.path, func(t *testing.T) {
			var steps []string
			img, err := s.Fetch(t.Context(), imagestore.Fetch{URL: w.url(tt.path), SHA256: tt.sum, Rules: w.rules()}, func(step string, _, _ int64) {
				if len(steps) == 0 || steps[len(steps)-1] != step {
					steps = append(steps, step)
				}
			})
			if err != nil || img.Digest != digestOf(t, path) || !equal(t, path, imagePath(dir, img)) {
				t.Fatal(img, err)
			}
			want := http.Header{"Accept-Encoding": {"identity"}, "User-Agent": {"capsuled"}, "Connection": {"close"}}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"copy", "inspect"}, steps); diff != "" {
				t.Error(diff)
			}
			if err := s.Remove(t.Context(), img.Digest); err != nil {
				t.Error(err)
			}
		})
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// A URL that the rules do not allow gives no packet to anybody.
func TestFetchRefusesURLs(t *testing.T) {
	w := serve(t, http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { fmt.Fprint(out, "reached") }))
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached a server of this machine") }))
	defer inside.Close()
	everywhere, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	go func() {
		for {
			c, err := everywhere.Accept()
			if err != nil {
				return
			}
			t.Error("reached this machine by", c.LocalAddr())
			c.Close()
		}
	}()
	s, dir := newStore(t)
	open := port(everywhere.Addr().String())
	r := imagestore.FetchRules{Schemes: []string{"http"}, Allow: []string{
		"example.com" + port(w.plain), "*.example.com" + open, "127.0.0.1" + open, "[::1]" + open, "[::ffff:127.0.0.1]" + open,
		"169.254.169.254", "0.0.0.0" + open, "[::]" + open, "localhost" + open, testhost.HostAddr + open, "[64:ff9b::7f00:1]" + open,
		"10.1.2.3", testhost.WorldAddr,
	}, Deny: []netip.Prefix{netip.MustParsePrefix(testhost.WorldAddr + "/32")}}
	for _, tt := range []struct{ url, words string }{
		{"", "no URL"}, {"disk.qcow2", "no URL"}, {"http:///disk", "no URL"}, {"http:example.com", "no URL"}, {"http://\x00", "no URL"},
		{"http://example.com:port/", "no URL"}, {"http://example.com/" + strings.Repeat("a", 5000), "longer"},
		{"file:///etc/passwd", "no URL"}, {"file://example.com/etc/passwd", "scheme"}, {"ftp://example.com/", "scheme"},
		{"https://example.com" + port(w.plain), "scheme"}, {"gopher://example.com/", "scheme"},
		{"http://user@example.com" + port(w.plain), "password"}, {"http://user:secret@example.com" + port(w.plain), "password"},
		{"http://example.com/", "not fetched from"}, {"http://other.org" + port(w.plain), "not fetched from"},
		{"http://example.com.other.org" + port(w.plain), "not fetched from"}, {"http://notexample.com" + open, "not fetched from"},
		{"http://.example.com" + open, "not fetched from"}, {"http://2130706433" + open, "not fetched from"},
		{"http://0x7f.1" + open, "not fetched from"}, {"http://ⓔxample.com" + port(w.plain), "not fetched from"},
		{"http://example.com%2eother.org" + open, "no URL"},
		{"http://127.0.0.1" + open, "address"}, {"http://[::1]" + open, "address"}, {"http://[::ffff:127.0.0.1]" + open, "address"},
		{"http://[::ffff:7f00:1]" + open, "not fetched from"}, {"http://0.0.0.0" + open, "address"}, {"http://[::]" + open, "address"},
		{"http://localhost" + open, "address"}, {"http://LOCALHOST" + open, "address"}, {"http://169.254.169.254/latest/meta-data", "address"},
		{"http://rebound.example.com" + open, "address"}, {"http://metadata.example.com" + open, "address"}, {"http://six.example.com" + open, "address"},
		{"http://mapped.example.com" + open, "address"}, {"http://self.example.com" + open, "address"}, {"http://" + testhost.HostAddr + open, "address"},
		{"http://[64:ff9b::7f00:1]" + open, "address"}, {"http://ten.example.com" + open, "address"}, {"http://10.1.2.3/", "address"},
		{"http://" + testhost.WorldAddr + "/", "address"}, // denied
	} {
		t.Run(tt.url[:min(len(tt.url), 60)], func(t *testing.T) {
			_, err := s.Fetch(t.Context(), imagestore.Fetch{URL: tt.url, Rules: r}, nil)
			wantRefusal(t, err, tt.words)
			if strings.Contains(err.Error(), "secret") {
				t.Error("tells the password:", err)
			}
		})
	}
	if n := w.requests.Load(); n > 0 {
		t.Error(n, "requests")
	}
	if _, err := s.Fetch(t.Context(), imagestore.Fetch{URL: w.url("/")}, nil); err == nil || w.requests.Load() > 0 {
		t.Error("no rules allow everything", err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// Each redirect is looked at as the URL was.
func TestFetchRefusesRedirects(t *testing.T) {
	var w *site
	w = serve(t, http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		to := strings.TrimPrefix(in.URL.Path, "/to/")
		if in.URL.Path == "/loop" {
			to = w.url("/loop")
		}
		out.Header().Set("Location", to)
		out.WriteHeader(http.StatusTemporaryRedirect)
	}))
	s, dir := newStore(t)
	r := w.rules()
	r.Schemes = []string{"https", "http"}
	r.Allow = append(r.Allow, "169.254.169.254", "*.example.com", "example.com"+port(w.plain))
	for _, tt := range []struct{ path, words string }{
		{"/to/https://169.254.169.254/latest", "address"}, {"/to/https://rebound.example.com/", "address"}, {"/to/https://127.0.0.1/", "not fetched from"},
		{"/to/file:///etc/passwd", "https to"}, {"/to/http://example.com" + port(w.plain), "stays with https"},
		{"/to/https://a:b@example.com" + port(w.tls) + "/", "password"}, {"/loop", "more than 5 times"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			before := w.requests.Load()
			_, err := s.Fetch(t.Context(), imagestore.Fetch{URL: w.url(tt.path), Rules: r}, nil)
			wantRefusal(t, err, tt.words)
			if n := w.requests.Load() - before; n != map[bool]int64{true: 6, false: 1}[tt.path == "/loop"] {
				t.Error(n, "requests")
			}
		})
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// A server that lies, breaks off, dawdles or never ends costs no more than it may, and leaves nothing.
func TestFetchBadServers(t *testing.T) {
	path := rawDisk(t, 1, 4*mib)
	whole := read(t, path)
	handler := http.NewServeMux()
	handle := func(path string, h http.HandlerFunc) { handler.HandleFunc(path, h) }
	drip := func(out http.ResponseWriter, in *http.Request) {
		for in.Context().Err() == nil {
			out.Write([]byte("x"))
			out.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}
	handle("/drip", drip)
	handle("/silence", func(out http.ResponseWriter, in *http.Request) { <-in.Context().Done() })
	handle("/endless", func(out http.ResponseWriter, in *http.Request) {
		for in.Context().Err() == nil {
			out.Write(whole)
		}
	})
	handle("/claims", func(out http.ResponseWriter, _ *http.Request) { out.Header().Set("Content-Length", "99999999999") })
	handle("/cut", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Length", fmt.Sprint(len(whole)))
		out.Write(whole[:mib])
		panic(http.ErrAbortHandler)
	})
	handle("/cut-chunked", func(out http.ResponseWriter, _ *http.Request) {
		out.Write(whole[:3*mib])
		panic(http.ErrAbortHandler)
	})
	handle("/gzip", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Encoding", "gzip")
		out.Write(whole)
	})
	handle("/headers", func(out http.ResponseWriter, _ *http.Request) { out.Header().Set("X", strings.Repeat("y", mib)) })
	handle("/empty", func(http.ResponseWriter, *http.Request) {})
	handle("/partial", func(out http.ResponseWriter, _ *http.Request) { out.WriteHeader(http.StatusPartialContent) })
	handle("/page", func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, strings.Repeat("<html>", 1000)) })
	handle("/whole", func(out http.ResponseWriter, _ *http.Request) { out.Write(whole) })
	w := serve(t, handler)
	s, dir := newStore(t)
	for _, tt := range []struct {
		path  string
		want  error
		words string
		but   func(*imagestore.Fetch)
	}{
		{"/drip", imagestore.ErrSource, "too slowly", func(f *imagestore.Fetch) { f.Rules.Window, f.Rules.MinRate = 300*time.Millisecond, mib }},
		{"/drip", imagestore.ErrSource, "in the time that", func(f *imagestore.Fetch) { f.Rules.Timeout = 300 * time.Millisecond }},
		{"/silence", imagestore.ErrSource, "in the time that", func(f *imagestore.Fetch) { f.Rules.Timeout = 300 * time.Millisecond }},
		{"/endless", imagestore.ErrInvalid, "more than 16777216 bytes", func(f *imagestore.Fetch) { f.MaxBytes = 16 * mib }},
		{"/claims", imagestore.ErrInvalid, "99999999999 bytes long", func(f *imagestore.Fetch) { f.MaxBytes = 16 * mib }},
		{"/cut", imagestore.ErrSource, "before all of it came", nil},
		{"/cut-chunked", imagestore.ErrSource, "before all of it came", nil},
		{"/gzip", imagestore.ErrInvalid, "compressed on the way", nil},
		{"/headers", imagestore.ErrSource, "broke off", nil},
		{"/empty", imagestore.ErrInvalid, "empty", nil},
		{"/partial", imagestore.ErrSource, "206 Partial Content", nil},
		{"/missing", imagestore.ErrSource, "404 Not Found", nil},
		{"/page", imagestore.ErrInvalid, "bytes long", nil},
		{"/whole", imagestore.ErrDigest, "announced", func(f *imagestore.Fetch) { f.SHA256 = "sha256:" + imagestore.Digest(strings.Repeat("0", 64)) }},
		{"/whole", imagestore.ErrInvalid, "digest", func(f *imagestore.Fetch) { f.SHA256 = "md5:0" }},
		{"/whole", imagestore.ErrSource, "certificate", func(f *imagestore.Fetch) { f.Rules.Roots = x509.NewCertPool() }},
		{"/other name", imagestore.ErrSource, "certificate", func(f *imagestore.Fetch) { f.URL = "https://example.org" + port(w.tls) }},
		{"/plain", imagestore.ErrSource, "TLS", func(f *imagestore.Fetch) { f.URL = "https://example.com" + port(w.plain) }},
		{"/nobody", imagestore.ErrSource, "refused the connection", func(f *imagestore.Fetch) { f.URL = "https://example.com:1/" }},
		{"/unknown", imagestore.ErrSource, "no address", func(f *imagestore.Fetch) { f.URL = "https://unknown.example.com:1/" }},
		{"/bad rules", imagestore.ErrInvalid, "scheme", func(f *imagestore.Fetch) { f.Rules.Schemes = []string{"file"} }},
	} {
		t.Run(tt.path, func(t *testing.T) {
			f := imagestore.Fetch{URL: w.url(tt.path), Rules: w.rules()}
			f.Rules.Allow = append(f.Rules.Allow, "example.org"+port(w.tls), "example.com"+port(w.plain), "example.com:1", "*.example.com:1")
			if tt.but != nil {
				tt.but(&f)
			}
			_, err := s.Fetch(t.Context(), f, nil)
			if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.words) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.words)
			}
			if strings.Contains(fmt.Sprint(err), testhost.WorldAddr) || strings.Contains(fmt.Sprint(err), "lookup") {
				t.Error("names what this side sees:", err)
			}
			if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, step := range []string{"copy", "inspect"} {
		t.Run("cancel at "+step, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := s.Fetch(ctx, imagestore.Fetch{URL: w.url("/whole"), Rules: w.rules()}, func(at string, _, _ int64) {
				if at == step {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
