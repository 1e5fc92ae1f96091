package keystone_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/keystone"
)

const hash = "$2a$10$" + "abcdefghijklmnopqrstuvABCDEFGHIJKLMNOPQRSTUVWXYZ01234"

func TestParseUsers(t *testing.T) {
	text := "# users\r\n\nalice:" + hash + ":guid-a:a@example.org:books:admin,metrics\nbob:" + hash + ":guid-b:::\r\nhost2:" + hash + ":host2:::peer\n"
	got, err := keystone.ParseUsers([]byte(text))
	want := []keystone.User{{Name: "alice", Hash: []byte(hash), GUID: "guid-a", Email: "a@example.org", Project: "books", Roles: []string{"admin", "metrics"}},
		{Name: "bob", Hash: []byte(hash), GUID: "guid-b"}, {Name: "host2", Hash: []byte(hash), GUID: "host2", Roles: []string{"peer"}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	for name, row := range map[string][2]string{
		"five fields":   {"a:" + hash + ":g::", "5 fields"},
		"seven fields":  {"a:" + hash + ":g::::", "7 fields"},
		"no name":       {":" + hash + ":g:::", "name"},
		"name":          {"a b:" + hash + ":g:::", "name"},
		"no hash":       {"a::g:::", "bcrypt"},
		"plain text":    {"a:password:g:::", "bcrypt"},
		"long hash":     {"a:" + hash + "x:g:::", "bcrypt"},
		"cheap hash":    {"a:" + strings.Replace(hash, "$10$", "$04$", 1) + ":g:::", "cost 4"},
		"dear hash":     {"a:" + strings.Replace(hash, "$10$", "$20$", 1) + ":g:::", "cost 20"},
		"no guid":       {"a:" + hash + "::::", "guid"},
		"role":          {"a:" + hash + ":g:::admin,boss", "\"boss\"; there are admin, metrics, peer"},
		"twice":         {"a:" + hash + ":g:::\na:" + hash + ":h:::", "line 2"},
		"no UTF-8":      {"a:" + hash + ":g:\xff::", "UTF-8"},
		"too long line": {strings.Repeat("x", 1<<17), "too long"},
	} {
		_, err := keystone.ParseUsers([]byte(row[0]))
		if err == nil || !strings.Contains(err.Error(), row[1]) || strings.Contains(err.Error(), hash) {
			t.Errorf("%s: %v, want %s", name, err, row[1])
		}
	}
}

// Whatever is in a file, users have what a login needs.
func FuzzParseUsers(f *testing.F) {
	f.Add("alice:" + hash + ":guid:::admin")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := keystone.ParseUsers([]byte(text))
		for _, u := range users {
			if err != nil || u.Name == "" || u.GUID == "" || len(u.Hash) != 60 {
				t.Errorf("%+v, %v", u, err)
			}
		}
	})
}

// Whatever a body is, it is refused in keystone's shape, and a token is given for the one password alone.
func FuzzAuthenticate(f *testing.F) {
	for _, body := range []string{password3("nobody", "x"), password2("nobody", "x"), `{"auth":{"token":{"id":"x"}}}`, `{"auth":{"identity":{"methods":["token"],"token":{"id":"x"}},"scope":{"system":{}}}}`, `[]`, ``,
		`{"auth":{"RAX-KSKEY:apiKeyCredentials":{"username":null,"apiKey":1},"tenantId":{}}}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		h := start(t, nil)
		for _, path := range []string{tokens3, tokens2} {
			a := h.call(t, "POST", path, body)
			given := a.status == 200 || a.status == 201
			if a.status >= 500 || given && strings.TrimSpace(body) != "" && !strings.Contains(body, "-password") && !strings.Contains(body, "TOKEN-") && !strings.Contains(body, `\u`) && !strings.Contains(body, strings.Repeat("p", 72)) {
				t.Errorf("%q: %d %s", body, a.status, a.body)
			}
		}
	})
}
