package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/capsuled/capsuled/api/wire"
)

// forged is a token with any header, claims and signature; a key of nil signs nothing.
func forged(t *testing.T, m jwt.SigningMethod, header, claims map[string]any, key any) string {
	t.Helper()
	c := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, claims)
	tok := jwt.NewWithClaims(m, c)
	maps.Copy(tok.Header, header)
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// badTokens are tokens that are no identity, beside a good one.
func badTokens(t *testing.T, good string) map[string]string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	head, rest, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(rest, ".")
	root := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"alice","roles":["admin"],"exp":9999999999}`))
	return map[string]string{
		"expired":                    token(t, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
		"no exp":                     token(t, map[string]any{"exp": nil}),
		"exp is a word":              token(t, map[string]any{"exp": "never"}),
		"not yet":                    token(t, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}),
		"issued tomorrow":            token(t, map[string]any{"iat": time.Now().Add(24 * time.Hour).Unix()}),
		"no sub":                     token(t, map[string]any{"sub": nil, "guid": "alice"}),
		"empty sub":                  token(t, map[string]any{"sub": ""}),
		"sub is a number":            token(t, map[string]any{"sub": 1}),
		"root":                       token(t, map[string]any{"sub": "root"}),
		"Root as guid":               token(t, map[string]any{"guid": "Root"}),
		"the daemon":                 token(t, map[string]any{"guid": "daemon"}),
		"a local user":               token(t, map[string]any{"guid": "local:operator"}),
		"guid with a line":           token(t, map[string]any{"guid": "alice\nbob"}),
		"guid with a path":           token(t, map[string]any{"guid": "../alice"}),
		"guid of 65":                 token(t, map[string]any{"guid": strings.Repeat("a", 65)}),
		"guid is a list":             token(t, map[string]any{"guid": []string{"alice"}}),
		"email with an escape":       token(t, map[string]any{"email": "a\x1b[2J@example.org"}),
		"email of 200":               token(t, map[string]any{"email": strings.Repeat("a", 200)}),
		"roles are a word":           token(t, map[string]any{"roles": "admin"}),
		"alg none":                   forged(t, jwt.SigningMethodNone, nil, nil, jwt.UnsafeAllowNoneSignatureType),
		"alg none, signed":           forged(t, jwt.SigningMethodHS256, map[string]any{"alg": "none"}, nil, []byte(secret)),
		"alg None":                   forged(t, jwt.SigningMethodHS256, map[string]any{"alg": "None"}, nil, []byte(secret)),
		"alg missing":                forged(t, jwt.SigningMethodHS256, map[string]any{"alg": ""}, nil, []byte(secret)),
		"HS512":                      forged(t, jwt.SigningMethodHS512, nil, nil, []byte(secret)),
		"RS256":                      forged(t, jwt.SigningMethodRS256, nil, nil, key),
		"RS256 by name, HMAC inside": forged(t, jwt.SigningMethodHS256, map[string]any{"alg": "RS256"}, nil, []byte(secret)),
		"HMAC with a public key":     forged(t, jwt.SigningMethodHS256, nil, nil, public),
		"HMAC with the key it names": forged(t, jwt.SigningMethodHS256, map[string]any{"jwk": map[string]any{"kty": "oct", "k": "YQ"}, "kid": "/dev/null"}, nil, []byte("a")),
		"another secret":             forged(t, jwt.SigningMethodHS256, nil, nil, []byte(strings.ToUpper(secret))),
		"empty secret":               forged(t, jwt.SigningMethodHS256, nil, nil, []byte{}),
		"the secret and a line end":  forged(t, jwt.SigningMethodHS256, nil, nil, []byte(secret+"\n")),
		"unsigned":                   head + "." + body + ".",
		"two parts":                  head + "." + body,
		"cut":                        good[:len(good)-2],
		"tail":                       good + "==",
		"promoted":                   head + "." + root + "." + signature,
		"not base64":                 "a.b.c",
		"word":                       "alice",
		"empty":                      "",
	}
}

// impostors are headers that are no identity, each by itself.
func impostors(t *testing.T) map[string]http.Header {
	t.Helper()
	good := as(t, "alice")
	headers := map[string]http.Header{
		"nothing":                {},
		"another's name":         {"Htrc-Remote-User": {"alice"}, "Htrc-Remote-User-Email": {"alice@example.org"}, "X-Remote-User": {"alice"}},
		"Basic":                  {"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))}},
		"no scheme":              {"Authorization": {good}},
		"cookie":                 {"Cookie": {"token=" + good + "; X-Auth-Token=" + good}},
		"two that differ":        {"Authorization": {"Bearer " + good}, "X-Auth-Token": {as(t, "bob")}},
		"two of a kind":          {"Authorization": {"Bearer " + good, "Bearer " + as(t, "bob")}},
		"good and Basic":         {"Authorization": {"Bearer " + good, "Basic YTpi"}},
		"a list":                 {"X-Auth-Token": {good + ", " + good}},
		"good and empty":         {"Authorization": {"Bearer " + good}, "X-Auth-Token": {""}},
		"another's peer address": {"X-Forwarded-For": {"127.0.0.1"}, "Forwarded": {"for=127.0.0.1"}},
	}
	for name, tok := range badTokens(t, good) {
		headers["bearer "+name] = http.Header{"Authorization": {"Bearer " + tok}}
		headers["x-auth-token "+name] = http.Header{"X-Auth-Token": {tok}}
	}
	return headers
}

// TestBadIdentity comes with what is no identity, to every kind of call.
func TestBadIdentity(t *testing.T) {
	o := oneHost(t)
	t.Run("impostors", func(t *testing.T) {
		for name, header := range impostors(t) {
			t.Run(name, func(t *testing.T) {
				header.Set("Content-Type", formType)
				for _, r := range []request{
					{path: "/createvm", body: o.form().Encode()}, {path: "/sloan-ws/show"}, {path: "/listvms", method: "GET"},
				} {
					r.header = header
					a := o.ask(t, r)
					refused(t, a, 401, "unauthorized")
					if a.header.Get("WWW-Authenticate") == "" || strings.Contains(a.body, secret) {
						t.Errorf("%s: %+v", r.path, a)
					}
				}
				for _, path := range []string{"/v1/images", "/v1/operations", "/metrics"} {
					problem(t, o.ask(t, request{method: "GET", path: path, header: header}), 401, "unauthorized")
				}
			})
		}
		o.whole(t)
	})
	t.Run("huge", func(t *testing.T) {
		for name, value := range map[string]string{"Authorization": "Bearer " + strings.Repeat("a", 40<<10), "X-Auth-Token": strings.Repeat("a", 1<<20), "X-Other": strings.Repeat("a", 40<<10)} {
			if a := o.ask(t, request{path: "/show", header: http.Header{name: {value}}}); a.status != 431 {
				t.Errorf("a header %s of %d bytes: %d %s", name, len(value), a.status, brief(a.body))
			}
		}
		big := token(t, map[string]any{"padding": strings.Repeat("a", 8<<10)})
		if a := o.post(big, "/show", nil); a.status != 200 {
			t.Errorf("a token of %d bytes: %+v", len(big), a)
		}
	})
	t.Run("borrowed", o.borrowedNames)
	t.Run("full access", o.fullAccess)
}

// borrowedNames sends somebody else's name beside one's own token: the token alone says who acts.
func (o one) borrowedNames(t *testing.T) {
	good := as(t, "alice")
	for name, header := range map[string]http.Header{
		"tcp":            {"Authorization": {"Bearer " + good}, "Htrc-Remote-User": {"bob"}, "Htrc-Remote-Operator": {"root"}, "X-Remote-User": {"bob"}},
		"unix":           {"Authorization": {"Bearer " + good}, "Htrc-Remote-User": {"bob"}},
		"x-auth-token":   {"X-Auth-Token": {good}, "Htrc-Remote-User": {"bob"}, "X-Forwarded-User": {"root"}},
		"the same twice": {"X-Auth-Token": {good}, "Authorization": {"bearer " + good}},
	} {
		t.Run(name, func(t *testing.T) {
			header.Set("Content-Type", formType)
			made := o.ask(t, request{over: name, path: "/createvm", header: header, body: o.form().Encode()})
			var created wire.Created
			if err := json.Unmarshal([]byte(made.body), &created); err != nil {
				t.Fatal(made)
			}
			o.wait(made)
			if st := o.status(created.VMID); len(st.Roles) != 1 || st.Roles[0].GUID != "alice" {
				t.Errorf("it belongs to %+v", st.Roles)
			}
			if a := o.send(as(t, "bob"), "GET", "/listvms", "", ""); a.body != "{\"vmsInfo\":[]}\n" {
				t.Errorf("bob has %s", a.body)
			}
			o.wait(o.ask(t, request{path: "/deletevm", header: header, body: "vmid=" + created.VMID}))
		})
	}
	for _, relay := range []string{"Htrc-Remote-User", "X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"} {
		refused(t, o.ask(t, request{over: "unix", path: "/show", header: http.Header{relay: {"alice"}, "Content-Type": {formType}}}), 401, "unauthorized")
	}
	o.whole(t)
}

// fullAccess takes what only an administrator may give.
func (o one) fullAccess(t *testing.T) {
	for _, f := range [][]string{
		{"type", "RESEARCH-FULL"}, {"full_access", "true"}, {"full_access", "TRUE"}, {"type", "RESEARCH-FULL", "full_access", "false"},
		{"type", "DEMO", "full_access", "true"}, {"type", "RESEARCH", "full_access", "true"},
	} {
		for name, claims := range map[string]map[string]any{
			"nobody": nil, "metrics": {"roles": []string{"metrics"}}, "almost": {"roles": []string{"Admin", "administrator", " admin"}},
			"by other names": {"role": "admin", "admin": true, "groups": []string{"admin"}, "is_admin": true},
		} {
			a := o.post(token(t, claims), "/createvm", o.form(f...))
			refused(t, a, 400, "forbidden", "full access")
			if t.Failed() {
				t.Fatalf("%v by %s", f, name)
			}
		}
	}
	o.whole(t)
	admin := token(t, map[string]any{"sub": "eve", "roles": []string{"admin"}})
	a := o.post(admin, "/createvm", o.form("type", "RESEARCH-FULL", "full_access", "true"))
	o.wait(a)
	for _, id := range vmids(o.ctl("list", "--json")) {
		o.ctl("delete", "--yes", "--wait", id)
	}
	o.whole(t)
}
