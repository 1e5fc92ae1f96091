package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
)

// imageDaemon has the verbs of the image dialects as well.
type imageDaemon struct{ *fakeDaemon }

func (d imageDaemon) FindImages(ctx context.Context, c daemon.Caller, _ daemon.ImageQuery) (daemon.ImagePage, error) {
	if err := d.enter(ctx, c); err != nil {
		return daemon.ImagePage{}, err
	}
	return daemon.ImagePage{Images: []*daemon.Image{{ID: "00000000-0000-4000-8000-000000000001", Name: "jammy", State: daemon.ImageActive}}}, nil
}

func (d imageDaemon) SetImage(ctx context.Context, c daemon.Caller, _ string, _ daemon.ImageChange) (daemon.Image, error) {
	return daemon.Image{}, d.enter(ctx, c)
}

func (d imageDaemon) RequestActiveImageDelete(ctx context.Context, c daemon.Caller, _ string) (daemon.Image, error) {
	return daemon.Image{}, d.enter(ctx, c)
}

func usersLine(t *testing.T, name, password, rest string) string {
	t.Helper()
	return name + ":" + string(must[[]byte](t)(bcrypt.GenerateFromPassword([]byte(password), 10))) + ":" + rest + "\n"
}

const loginBody = `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"alice","domain":{"id":"default"},"password":"open sesame"}}}}}`

// A password gets a token, the token opens every door as the one whose password it was, and what is on the way is in no
// log. The file is read again when it changes.
func TestLogin(t *testing.T) {
	users := filepath.Join(openDir(t), "users")
	write(t, users, usersLine(t, "alice", "open sesame", "guid-a:a@example.org:books:metrics"), 0o600)
	h := start(t, func(o *api.Options) {
		o.Daemon = imageDaemon{o.Daemon.(*fakeDaemon)}
		o.UsersFile, o.TokenLife, o.Region = users, 2*time.Hour, "here"
	})
	a := h.login(t)
	token := a.Header.Get("X-Subject-Token")
	var said struct {
		Token struct {
			User      struct{ ID, Name string }
			Project   struct{ ID string }
			IssuedAt  time.Time `json:"issued_at"`
			ExpiresAt time.Time `json:"expires_at"`
			Catalog   []struct {
				Endpoints []struct{ Region, URL string }
			}
		}
	}
	if err := json.Unmarshal([]byte(a.body), &said); err != nil || a.StatusCode != 201 || token == "" {
		t.Fatalf("%v: %d %s", err, a.StatusCode, a.body)
	}
	if tok := said.Token; tok.User.ID != "guid-a" || tok.User.Name != "alice" || tok.Project.ID != "books" || tok.ExpiresAt.Sub(tok.IssuedAt) != 2*time.Hour ||
		tok.Catalog[0].Endpoints[0].Region != "here" || tok.Catalog[0].Endpoints[0].URL != h.tcpURL+"/v2.1" {
		t.Errorf("%+v", tok)
	}
	if a := h.remote(t, "GET", "/v2.1/books/images", "", "X-Auth-Token: "+token); a.StatusCode != 200 || !strings.Contains(a.body, h.tcpURL+"/v2.1/books/images/") {
		t.Errorf("images: %d %s", a.StatusCode, a.body)
	}
	if c := h.lastCaller(); c.GUID != "guid-a" || c.Email != "a@example.org" || c.Project != "books" || !c.HasRole("metrics") || c.HasRole("admin") {
		t.Errorf("known as %+v", c)
	}
	if a := h.remote(t, "GET", "/metrics", "", "X-Auth-Token: "+token); a.StatusCode != 200 || !strings.Contains(a.body, `route="GET /v2.1/images"`) {
		t.Errorf("metrics: %d", a.StatusCode)
	}
	if a := h.remote(t, "GET", "/v2.1/films/images", "", "X-Auth-Token: "+token); a.StatusCode != 400 || !strings.Contains(a.body, "badRequest") {
		t.Errorf("another project: %d %s", a.StatusCode, a.body)
	}
	if a := h.remote(t, "GET", "/v2.1/images", ""); a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") != `Keystone uri="`+h.tcpURL+`/identity"` {
		t.Errorf("no token: %d %v", a.StatusCode, a.Header)
	}

	write(t, users, usersLine(t, "alice", "something else", "guid-a:::"), 0o600)
	if a := h.login(t); a.StatusCode != 401 || !strings.Contains(a.body, `"error"`) {
		t.Errorf("with the old password: %d %s", a.StatusCode, a.body)
	}
	write(t, users, "nonsense\n", 0o600)
	if a := h.login(t); a.StatusCode != 503 || strings.Contains(a.body, "line 1") {
		t.Errorf("with a broken file: %d %s", a.StatusCode, a.body)
	}
	if log := h.log.String(); strings.Contains(log, "sesame") || strings.Contains(log, token) || !strings.Contains(log, "line 1") {
		t.Errorf("the log: %s", log)
	}
}

// A file that is not fit keeps the server from starting, and says why.
func TestBadUsersFile(t *testing.T) {
	dir := openDir(t)
	secretPath := filepath.Join(dir, "secret")
	write(t, secretPath, secret, 0o600)
	good := usersLine(t, "alice", "x", "guid-a:::")
	for name, row := range map[string]struct {
		text string
		mode os.FileMode
		uid  int
		want string
	}{
		"open":      {good, 0o604, 0, "gives others access"},
		"writable":  {good, 0o660, 0, "writable by nobody else"},
		"another's": {good, 0o600, 12345, "must be root's"},
		"broken":    {"x\n", 0o600, 0, "line 1"},
		"guid":      {usersLine(t, "alice", "x", "root:::"), 0o600, 0, "reserved"},
		"project":   {usersLine(t, "alice", "x", "g::"+strings.Repeat("p", 65)+":"), 0o600, 0, "project"},
		"long":      {strings.Repeat("#\n", 1<<20), 0o600, 0, "more than"},
	} {
		path := filepath.Join(dir, name)
		write(t, path, row.text, row.mode)
		if row.uid != 0 {
			if err := os.Chown(path, row.uid, 0); err != nil {
				if os.Geteuid() != 0 {
					continue // giving a file away is root's
				}
				t.Fatal(err)
			}
		}
		opt := optionsFor(path, secretPath)
		if _, err := api.New(opt); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", name, err, row.want)
		}
	}
	path := filepath.Join(dir, "good")
	write(t, path, good, 0o600)
	if _, err := api.New(optionsFor(path, "")); err == nil || !strings.Contains(err.Error(), "SecretFile") {
		t.Errorf("without a secret: %v", err)
	}
	if _, err := api.New(optionsFor(filepath.Join(dir, "none"), secretPath)); err == nil {
		t.Error("without the file")
	}
	opt := optionsFor(path, secretPath)
	opt.TokenLife = -time.Second
	if _, err := api.New(opt); err == nil {
		t.Error("tokens that never live")
	}
}

func optionsFor(users, secretPath string) api.Options {
	return api.Options{Daemon: newFake(), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Metrics: http.NotFoundHandler(),
		SecretFile: secretPath, UsersFile: users}
}

// login asks for a token over TCP.
func (h *host) login(t *testing.T) answer {
	t.Helper()
	r := request(t, "POST", h.tcpURL+"/identity/v3/auth/tokens", loginBody)
	r.Header.Set("Content-Type", "application/json")
	return do(t, h.tcp, r)
}
