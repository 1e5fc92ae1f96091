package api_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"github.com/capsuled/capsuled/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "0123456789abcdef0123456789abcdef"

// host is a Server on a unix socket and a loopback port, before a fake daemon.
type host struct {
	*fakeDaemon
	server *api.Server
	socket string
	secret string // path of the secret's file
	log    *logBuffer
	unix   *http.Client
	tcp    *http.Client
	tcpURL string
	served chan error
}

// logBuffer is a log that tests read while the server writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start serves until the test ends. change may set options before.
func start(t *testing.T, change func(*api.Options)) *host {
	t.Helper()
	dir := openDir(t)
	h := &host{fakeDaemon: newFake(), log: &logBuffer{}, socket: filepath.Join(dir, "d.sock"), secret: filepath.Join(dir, "secret"), served: make(chan error, 1)}
	write(t, h.secret, secret+"\n", 0o600)
	opt := options(h)
	if change != nil {
		change(&opt)
	}
	var err error
	if h.server, err = api.New(opt); err != nil {
		t.Fatal(err)
	}
	local := must[net.Listener](t)(api.ListenUnix(t.Context(), h.socket, -1))
	remote := must[net.Listener](t)(api.ListenTCP(t.Context(), "127.0.0.1:0", api.TLSFiles{}))
	h.tcpURL = "http://" + remote.Addr().String()
	go func() { h.served <- h.server.Serve(local, remote) }()
	h.unix, h.tcp = unixClient(h.socket), &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		h.unix.CloseIdleConnections()
		h.tcp.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := h.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-h.served; err != nil {
			t.Error(err)
		}
	})
	return h
}

// options are those of a server before a host's daemon.
func options(h *host) api.Options {
	registry := prometheus.NewPedanticRegistry()
	return api.Options{
		Daemon:     h.fakeDaemon,
		Log:        slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: registry,
		Metrics:    promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Version:    "1.2.3",
		SecretFile: h.secret,
		Admins:     []string{"boss"},
	}
}

// openDir is a temporary directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := must[string](t)(os.MkdirTemp("", "api"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// answer is a reply read to its end.
type answer struct {
	*http.Response
	body string
}

func do(t *testing.T, client *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return answer{resp, string(must[[]byte](t)(io.ReadAll(resp.Body)))}
}

// request builds a request; head is "Name: value" lines. A body gets the dialect's media type unless head has one.
func request(t *testing.T, method, url, body string, head ...string) *http.Request {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body)))
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if strings.Contains(url, "/v1/") {
			r.Header.Set("Content-Type", "application/json")
		}
	}
	return r
}

// local asks as root, over the unix socket; remote over TCP.
func (h *host) local(t *testing.T, method, path, body string, head ...string) answer {
	t.Helper()
	return do(t, h.unix, request(t, method, "http://capsuled"+path, body, head...))
}

func (h *host) remote(t *testing.T, method, path, body string, head ...string) answer {
	t.Helper()
	return do(t, h.tcp, request(t, method, h.tcpURL+path, body, head...))
}

// bearerOf signs claims; exp is added unless there is one (nil removes it).
func bearerOf(t *testing.T, claims map[string]any) string {
	t.Helper()
	return "Authorization: Bearer " + sign(t, claims, jwt.SigningMethodHS256, []byte(secret))
}

func sign(t *testing.T, claims map[string]any, method jwt.SigningMethod, key any) string {
	t.Helper()
	all := jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
		if v == nil {
			delete(all, k)
		}
	}
	return must[string](t)(jwt.NewWithClaims(method, all).SignedString(key))
}
