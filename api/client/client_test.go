package client_test

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/capsuled/capsuled/api/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs h on a unix socket and returns a client of it.
func serve(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "cc") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	c := connect(t, client.Options{Socket: socket, UserAgent: "test/1"})
	t.Cleanup(func() { server.Close(); os.RemoveAll(dir) })
	return c
}

func connect(t *testing.T, opt client.Options) *client.Client {
	t.Helper()
	c, err := client.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func secret(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTLSAndToken(t *testing.T) {
	empty := answer(200, `{"vmsInfo":[]}`)
	daemon := scripted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer abc.def.ghi" || r.Header.Get("User-Agent") != "test/1" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		empty.ServeHTTP(w, r)
	}))
	server := httptest.NewUnstartedServer(daemon)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that trusts nobody is part of the test
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	token := secret(t, "abc.def.ghi\n")
	c := connect(t, client.Options{URL: server.URL + "/", CAFile: ca, TokenFile: token, UserAgent: "test/1"})
	if _, err := c.ListCapsules(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The file is read for each call.
	if err := os.WriteFile(token, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ListCapsules(t.Context()); !client.Is(err, client.Unauthorized) {
		t.Fatalf("with another token: %v", err)
	}
	for _, wrong := range []string{"", "two words", "caf\xc3\xa9", "a\nHost: b"} {
		if err := os.WriteFile(token, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(daemon.asked())
		if _, err := c.ListCapsules(t.Context()); err == nil || len(daemon.asked()) != before {
			t.Errorf("token %q was sent (%v)", wrong, err)
		}
	}
	stranger := connect(t, client.Options{URL: server.URL})
	_, err := stranger.ListCapsules(t.Context())
	if err == nil || !strings.Contains(err.Error(), "CA file") {
		t.Errorf("unknown authority: %v", err)
	}
}

// A redirect would take the token to whoever it names.
func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := scripted(answer(200, `{"vmsInfo":[]}`))
	there := httptest.NewServer(elsewhere)
	defer there.Close()
	here := httptest.NewServer(http.RedirectHandler(there.URL+"/listvms", http.StatusTemporaryRedirect))
	defer here.Close()
	c := connect(t, client.Options{URL: here.URL, Token: "abc"})
	if _, err := c.ListCapsules(t.Context()); err == nil || len(elsewhere.asked()) != 0 {
		t.Fatalf("err %v, calls elsewhere %q", err, elsewhere.asked())
	}
}

func TestURLPrefix(t *testing.T) {
	server := httptest.NewServer(http.StripPrefix("/host7", answer(200, `{"operations":[]}`)))
	defer server.Close()
	c := connect(t, client.Options{URL: server.URL + "/host7/"})
	if _, err := c.Operations(t.Context(), client.OperationFilter{}); err != nil {
		t.Fatal(err)
	}
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		opt  client.Options
		want string // "" for no error
	}{
		{"default", client.Options{}, ""},
		{"loopback in clear", client.Options{URL: "http://127.0.0.1:8080", Token: "a"}, ""},
		{"loopback 6 in clear", client.Options{URL: "http://[::1]:8080", Token: "a"}, ""},
		{"token in clear", client.Options{URL: "http://203.0.113.1:8080", Token: "a"}, "in clear"},
		{"token file in clear", client.Options{URL: "http://127.0.0.1.example.org", TokenFile: "x"}, "in clear"},
		{"both addresses", client.Options{Socket: "/x", URL: "https://h"}, "exclude"},
		{"both tokens", client.Options{Token: "a", TokenFile: "b"}, "exclude"},
		{"password", client.Options{URL: "https://u:hunter2@h"}, "must not hold"},
		{"bad URL with password", client.Options{URL: "https://u:hunter2@h:port"}, "cannot be parsed"},
		{"scheme", client.Options{URL: "ftp://h"}, "want http"},
		{"no host", client.Options{URL: "https:///x"}, "want scheme"},
		{"query", client.Options{URL: "https://h/?a=b"}, "want scheme"},
		{"CA and socket", client.Options{CAFile: "x"}, "https"},
		{"CA and http", client.Options{CAFile: "x", URL: "http://h"}, "https"},
		{"CA missing", client.Options{CAFile: "/nonexistent/ca", URL: "https://h"}, "no such file"},
		{"CA not PEM", client.Options{CAFile: secret(t, "hello"), URL: "https://h"}, "no PEM"},
		{"timeout", client.Options{Timeout: -time.Second}, "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client.New(tt.opt)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}
