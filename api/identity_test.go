package api_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
)

func TestTokensAccepted(t *testing.T) {
	h := start(t, nil)
	now := time.Now()
	alice := sign(t, map[string]any{"sub": "alice"}, jwt.SigningMethodHS256, []byte(secret))
	for _, row := range []struct {
		name string
		head []string
		want daemon.Caller
	}{
		{"sub alone", []string{"Authorization: Bearer " + alice}, daemon.Caller{GUID: "alice"}},
		{"as OpenStack clients do", []string{"X-Auth-Token: " + alice}, daemon.Caller{GUID: "alice"}},
		{"both, equal", []string{"X-Auth-Token: " + alice, "Authorization: bearer " + alice}, daemon.Caller{GUID: "alice"}},
		{"everything", []string{bearerOf(t, map[string]any{"sub": "42", "guid": "bob@example.org", "email": "b@example.org", "project": "p 1",
			"roles": []string{"metrics", "something-else", "admin"}})},
			daemon.Caller{GUID: "bob@example.org", Email: "b@example.org", Project: "p 1", Roles: []string{"metrics", "admin"}}},
		{"administrator by configuration", []string{bearerOf(t, map[string]any{"sub": "x", "guid": "boss"})}, daemon.Caller{GUID: "boss", Roles: []string{"admin"}}},
		{"clocks differ a little", []string{bearerOf(t, map[string]any{"sub": "alice", "iat": now.Add(3 * time.Second).Unix(), "nbf": now.Add(3 * time.Second).Unix()})},
			daemon.Caller{GUID: "alice"}},
		{"identity headers are nothing", []string{bearerOf(t, map[string]any{"sub": "alice"}), "htrc-remote-user: boss", "htrc-remote-operator: boss", "X-Forwarded-For: 10.0.0.1"},
			daemon.Caller{GUID: "alice"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := h.remote(t, "GET", "/listvms", "", row.head...)
			if a.StatusCode != 200 {
				t.Fatal(a.StatusCode, a.body)
			}
			row.want.From, row.want.Request = "127.0.0.1", a.Header.Get("X-Request-Id")
			got := h.lastCaller()
			if len(got.Roles) == 0 {
				got.Roles = nil
			}
			if diff := cmp.Diff(row.want, got, cmpopts.IgnoreUnexported(daemon.Caller{})); diff != "" {
				t.Errorf("caller (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTokensRefused(t *testing.T) {
	h := start(t, nil)
	now := time.Now()
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	alice := map[string]any{"sub": "alice"}
	good := sign(t, alice, jwt.SigningMethodHS256, []byte(secret))
	parts := strings.Split(good, ".")
	with := func(k string, v any) string { return bearerOf(t, map[string]any{"sub": "alice", k: v}) }
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "exp": now.Add(time.Hour).Unix()})
	critical.Header["crit"], critical.Header["bound"] = []string{"bound"}, "elsewhere"
	for name, head := range map[string][]string{
		"none at all":             nil,
		"identity headers alone":  {"htrc-remote-user: alice", "htrc-remote-user-email: a@example.org"},
		"basic":                   {"Authorization: Basic YWxpY2U6YWxpY2U="},
		"no scheme":               {"Authorization: " + good},
		"empty":                   {"Authorization: Bearer "},
		"empty X-Auth-Token":      {"X-Auth-Token: "},
		"garbage":                 {bearer("garbage")},
		"two that differ":         {bearer(good), "X-Auth-Token: " + sign(t, map[string]any{"sub": "bob"}, jwt.SigningMethodHS256, []byte(secret))},
		"two Authorizations":      {bearer(good), bearer("other")},
		"one good, one empty":     {bearer(good), "X-Auth-Token: "},
		"another secret":          {bearer(sign(t, alice, jwt.SigningMethodHS256, []byte(strings.ToUpper(secret))))},
		"secret with newline":     {bearer(sign(t, alice, jwt.SigningMethodHS256, []byte(secret+"\n")))},
		"HS512":                   {bearer(sign(t, alice, jwt.SigningMethodHS512, []byte(secret)))},
		"RS256":                   {bearer(sign(t, alice, jwt.SigningMethodRS256, key))},
		"none as algorithm":       {bearer(sign(t, alice, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType))},
		"none by hand":            {bearer(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".")},
		"critical extension":      {bearer(must[string](t)(critical.SignedString([]byte(secret))))},
		"no signature":            {bearer(parts[0] + "." + parts[1] + ".")},
		"another's claims":        {bearer(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"boss","exp":99999999999}`)) + "." + parts[2])},
		"expired":                 {with("exp", now.Add(-time.Minute).Unix())},
		"no exp":                  {with("exp", nil)},
		"exp as text":             {with("exp", "never")},
		"not yet":                 {with("nbf", now.Add(time.Hour).Unix())},
		"from the future":         {with("iat", now.Add(time.Hour).Unix())},
		"no sub":                  {with("sub", nil)},
		"no sub, but guid":        {bearerOf(t, map[string]any{"guid": "alice"})},
		"sub as number":           {with("sub", 7)},
		"roles as text":           {with("roles", "admin")},
		"guid of the host":        {with("guid", "root")},
		"guid of the daemon":      {with("guid", "Daemon")},
		"guid of a local user":    {with("guid", "local:alice")},
		"guid with a path":        {with("guid", "../../etc")},
		"guid with a newline":     {with("guid", "alice\nadmin")},
		"guid with an escape":     {with("guid", "alice\x1b[2J")},
		"guid of 65":              {with("guid", strings.Repeat("a", 65))},
		"sub of another alphabet": {with("sub", "аlice")},
		"email with a newline":    {with("email", "a@example.org\nBcc: all")},
		"project of 65":           {with("project", strings.Repeat("p", 65))},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/listvms", "/v1/images", "/metrics", "/v1/openapi.yaml"} {
				a := h.remote(t, "GET", path, "", head...)
				if a.StatusCode != 401 || !strings.HasPrefix(a.Header.Get("Www-Authenticate"), "Bearer") {
					t.Errorf("%s: %d %s %v", path, a.StatusCode, a.body, a.Header)
				}
				checkEnvelope(t, a, path != "/listvms")
			}
		})
	}
	if h.callers != nil {
		t.Errorf("verbs were called by %v", h.callers)
	}
	if log := h.log.String(); strings.Contains(log, good) || strings.Contains(log, parts[2]) {
		t.Error("a token is in the log")
	}
}

func TestHealthNeedsNoIdentity(t *testing.T) {
	h := start(t, nil)
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := h.remote(t, "GET", path, ""); a.StatusCode != 200 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
		if a := h.remote(t, "HEAD", path, ""); a.StatusCode != 200 || a.body != "" {
			t.Errorf("HEAD %s: %d %s", path, a.StatusCode, a.body)
		}
	}
}

func TestNoSecretMeansNobody(t *testing.T) {
	h := start(t, func(o *api.Options) { o.SecretFile = "" })
	for _, head := range [][]string{{bearerOf(t, map[string]any{"sub": "alice"})}, {"Authorization: Bearer " + sign(t, map[string]any{"sub": "alice"}, jwt.SigningMethodHS256, []byte{})}} {
		if a := h.remote(t, "GET", "/listvms", "", head...); a.StatusCode != 401 || !strings.Contains(a.body, "accepts no tokens") {
			t.Error(a.StatusCode, a.body)
		}
	}
	if a := h.local(t, "GET", "/listvms", ""); a.StatusCode != 200 {
		t.Error("root is refused:", a.StatusCode, a.body)
	}
}

func TestSecretIsReadAgain(t *testing.T) {
	h := start(t, nil)
	next := "another secret of thirty-two bytes."
	old, new := bearerOf(t, map[string]any{"sub": "a"}), "Authorization: Bearer "+sign(t, map[string]any{"sub": "a"}, jwt.SigningMethodHS256, []byte(next))
	expect := func(what string, oldStatus, newStatus int) {
		t.Helper()
		if a := h.remote(t, "GET", "/listvms", "", old); a.StatusCode != oldStatus {
			t.Errorf("%s: the old token gives %d %s", what, a.StatusCode, a.body)
		}
		if a := h.remote(t, "GET", "/listvms", "", new); a.StatusCode != newStatus {
			t.Errorf("%s: the new token gives %d %s", what, a.StatusCode, a.body)
		}
	}
	expect("at first", 200, 401)
	write(t, h.secret+".new", next, 0o600)
	if err := os.Rename(h.secret+".new", h.secret); err != nil {
		t.Fatal(err)
	}
	expect("replaced", 401, 200)
	write(t, h.secret, next, 0o604)
	expect("readable by all", 503, 503)
	write(t, h.secret, next[:31], 0o600)
	expect("too short", 503, 503)
	if err := os.Remove(h.secret); err != nil {
		t.Fatal(err)
	}
	expect("gone", 503, 503)
	write(t, h.secret, secret+"\r\n", 0o640)
	expect("back", 200, 401)
	if strings.Contains(h.log.String(), next) || strings.Contains(h.log.String(), secret) {
		t.Error("a secret is in the log")
	}
}

func TestUnfitOptions(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "good"), secret, 0o600)
	write(t, filepath.Join(dir, "open"), secret, 0o644)
	write(t, filepath.Join(dir, "short"), secret[:31]+"\n\n\n", 0o600)
	for name, row := range map[string]struct {
		change func(*api.Options)
		fault  string
	}{
		"good":                {func(o *api.Options) {}, ""},
		"secret missing":      {func(o *api.Options) { o.SecretFile = filepath.Join(dir, "none") }, "no such file"},
		"secret for all":      {func(o *api.Options) { o.SecretFile = filepath.Join(dir, "open") }, "chmod 0600"},
		"secret short":        {func(o *api.Options) { o.SecretFile = filepath.Join(dir, "short") }, "32 to 4096 bytes, not 31"},
		"secret is directory": {func(o *api.Options) { o.SecretFile = dir }, "not a regular file"},
		"admin is no guid":    {func(o *api.Options) { o.Admins = []string{"a b"} }, `administrator "a b"`},
		"no daemon":           {func(o *api.Options) { o.Daemon = nil }, "required"},
		"no log":              {func(o *api.Options) { o.Log = nil }, "required"},
	} {
		t.Run(name, func(t *testing.T) {
			opt := api.Options{Daemon: newFake(), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
				Metrics: http.NotFoundHandler(), SecretFile: filepath.Join(dir, "good")}
			row.change(&opt)
			_, err := api.New(opt)
			if (err == nil) != (row.fault == "") || err != nil && !strings.Contains(err.Error(), row.fault) {
				t.Errorf("got %v, want %q", err, row.fault)
			}
		})
	}
}

func TestMetricsNeedTheirRole(t *testing.T) {
	h := start(t, nil)
	for who, want := range map[string]int{
		bearerOf(t, map[string]any{"sub": "alice"}):                                   403,
		bearerOf(t, map[string]any{"sub": "prom", "roles": []string{"metrics"}}):      200,
		bearerOf(t, map[string]any{"sub": "alice", "roles": []string{"Metrics", ""}}): 403,
	} {
		if a := h.remote(t, "GET", "/metrics", "", who); a.StatusCode != want {
			t.Errorf("%d, want %d: %s", a.StatusCode, want, a.body)
		}
	}
	a := h.local(t, "GET", "/metrics", "")
	for _, line := range []string{`capsuled_api_requests_total{code="403",route="GET /metrics"} 2`, `capsuled_api_requests_in_flight 1`,
		`capsuled_api_connections{network="unix"} 1`, `capsuled_api_request_duration_seconds_count{route="GET /metrics"} 3`} {
		if !strings.Contains(a.body, line+"\n") {
			t.Errorf("no %s in\n%s", line, a.body)
		}
	}
}
