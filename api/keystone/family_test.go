package keystone_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/keystone"
)

// Every route with every status that it has.
func TestRoutes(t *testing.T) {
	user := func(members string) string {
		return `{"auth":{"identity":{"methods":["password"],"password":{"user":{` + members + `,"password":"alice-password"}}}}}`
	}
	scoped := func(scope string) string {
		return strings.TrimSuffix(password3("alice", "alice-password"), "}}") + `,"scope":` + scope + `}}`
	}
	token3 := func(token string) string {
		return `{"auth":{"identity":{"methods":["token"],"token":{"id":"` + token + `"}}}}`
	}
	const alice, bob = "X-Auth-Token: TOKEN-ALICE", "X-Auth-Token: TOKEN-BOB"
	for _, row := range []struct {
		name, method, path, body string
		want                     int
		headers                  []string
	}{
		{"versions", "GET", "/identity", "", 300, nil},
		{"versions, slash", "GET", "/identity/", "", 300, nil},
		{"versions, head", "HEAD", "/identity/", "", 300, nil},
		{"versions, posted", "POST", "/identity/", "", 401, nil},
		{"versions, posted by somebody", "POST", "/identity/", "", 405, []string{alice}},
		{"version 3", "GET", "/identity/v3", "", 200, nil},
		{"version 3, slash", "GET", "/identity/v3/", "", 200, nil},
		{"version 2", "GET", "/identity/v2.0/", "", 200, nil},
		{"nowhere", "GET", "/identity/v4", "", 401, nil},
		{"nowhere for somebody", "GET", "/identity/v4", "", 404, []string{alice}},
		{"a token in a path", "GET", tokens2 + "/TOKEN-ALICE", "", 404, []string{alice}},

		{"password", "POST", tokens3, password3("alice", "alice-password"), 201, nil},
		{"password, slash", "POST", tokens3 + "/", password3("alice", "alice-password"), 201, nil},
		{"password by id", "POST", tokens3, user(`"id":"guid-a"`), 201, nil},
		{"password, domain by name", "POST", tokens3, user(`"name":"alice","domain":{"name":"Default"}`), 201, nil},
		{"password, no domain", "POST", tokens3, user(`"name":"alice"`), 201, nil},
		{"password, null domain", "POST", tokens3, user(`"name":"alice","domain":null`), 201, nil},
		{"password, other domain", "POST", tokens3, user(`"name":"alice","domain":{"id":"other"}`), 401, nil},
		{"password, domain of a number", "POST", tokens3, user(`"name":"alice","domain":{"id":1}`), 400, nil},
		{"password, name and id", "POST", tokens3, user(`"name":"alice","id":"guid-a"`), 400, nil},
		{"password, no name", "POST", tokens3, user(`"x":1`), 400, nil},
		{"password, empty", "POST", tokens3, password3("alice", ""), 400, nil},
		{"password, wrong", "POST", tokens3, password3("alice", "bob-password"), 401, nil},
		{"password, unknown name", "POST", tokens3, password3("carol", "alice-password"), 401, nil},
		{"password, other case", "POST", tokens3, password3("Alice", "alice-password"), 401, nil},
		{"password of 72 bytes", "POST", tokens3, password3("long", strings.Repeat("p", 72)), 201, nil},
		{"password of 73 bytes", "POST", tokens3, password3("long", strings.Repeat("p", 73)), 401, nil},
		{"scope by id", "POST", tokens3, scoped(`{"project":{"id":"books"}}`), 201, nil},
		{"scope by name", "POST", tokens3, scoped(`{"project":{"name":"books","domain":{"name":"Default"}}}`), 201, nil},
		{"unscoped", "POST", tokens3, scoped(`"unscoped"`), 201, nil},
		{"scope elsewhere", "POST", tokens3, scoped(`{"project":{"id":"films"}}`), 401, nil},
		{"scope of another domain", "POST", tokens3, scoped(`{"project":{"name":"books","domain":{"id":"other"}}}`), 401, nil},
		{"scope of a domain", "POST", tokens3, scoped(`{"domain":{"id":"default"}}`), 401, nil},
		{"scope of the system", "POST", tokens3, scoped(`{"system":{"all":true}}`), 401, nil},
		{"scope of a number", "POST", tokens3, scoped(`1`), 400, nil},
		{"token", "POST", tokens3, token3("TOKEN-BOB"), 201, nil},
		{"token, bad", "POST", tokens3, token3("nonsense"), 401, nil},
		{"token, empty", "POST", tokens3, token3(""), 400, nil},
		{"no method", "POST", tokens3, `{"auth":{"identity":{"methods":[]}}}`, 400, nil},
		{"two methods", "POST", tokens3, `{"auth":{"identity":{"methods":["token","password"],"token":{"id":"TOKEN-BOB"}}}}`, 400, nil},
		{"other method", "POST", tokens3, `{"auth":{"identity":{"methods":["totp"]}}}`, 401, nil},
		{"no body", "POST", tokens3, "", 400, nil},
		{"no JSON", "POST", tokens3, "x", 400, nil},
		{"twice", "POST", tokens3, `{"auth":{},"auth":{}}`, 400, nil},
		{"no object", "POST", tokens3, `{"auth":[]}`, 400, nil},
		{"XML", "POST", tokens3, "<auth/>", 415, []string{"Content-Type: application/xml"}},
		{"too long", "POST", tokens3, strings.Repeat(" ", 200000), 413, nil},
		{"tokens, put", "PUT", tokens3, "", 405, []string{alice}},

		{"show", "GET", tokens3, "", 200, []string{bob, "X-Subject-Token: TOKEN-BOB"}},
		{"show, head", "HEAD", tokens3, "", 200, []string{bob, "X-Subject-Token: TOKEN-BOB"}},
		{"show as admin", "GET", tokens3, "", 200, []string{alice, "X-Subject-Token: TOKEN-BOB"}},
		{"show another's", "GET", tokens3, "", 403, []string{bob, "X-Subject-Token: TOKEN-ALICE"}},
		{"show nonsense", "GET", tokens3, "", 404, []string{bob, "X-Subject-Token: nonsense"}},
		{"show none", "GET", tokens3, "", 400, []string{bob}},
		{"show without identity", "GET", tokens3, "", 401, []string{"X-Subject-Token: TOKEN-BOB"}},
		{"revoke", "DELETE", tokens3, "", 204, []string{bob, "X-Subject-Token: TOKEN-BOB"}},
		{"revoke another's", "DELETE", tokens3, "", 403, []string{bob, "X-Subject-Token: TOKEN-ALICE"}},
		{"revoke nonsense", "DELETE", tokens3, "", 404, []string{bob, "X-Subject-Token: nonsense"}},
		{"projects", "GET", "/identity/v3/auth/projects", "", 200, []string{bob}},
		{"projects without identity", "GET", "/identity/v3/auth/projects", "", 401, nil},
		{"catalog", "GET", "/identity/v3/auth/catalog", "", 200, []string{bob}},
		{"catalog without identity", "GET", "/identity/v3/auth/catalog", "", 401, nil},

		{"v2 password", "POST", tokens2, password2("bob", "bob-password"), 200, nil},
		{"v2 password, wrong", "POST", tokens2, password2("bob", "x"), 401, nil},
		{"v2 password, none", "POST", tokens2, `{"auth":{"passwordCredentials":{"username":"bob"}}}`, 400, nil},
		{"v2 tenant", "POST", tokens2, `{"auth":{"tenantName":"books","passwordCredentials":{"username":"alice","password":"alice-password"}}}`, 200, nil},
		{"v2 other tenant", "POST", tokens2, `{"auth":{"tenantId":"films","passwordCredentials":{"username":"alice","password":"alice-password"}}}`, 401, nil},
		{"v2 key", "POST", tokens2, `{"auth":{"RAX-KSKEY:apiKeyCredentials":{"username":"bob","apiKey":"bob-password"}}}`, 200, nil},
		{"v2 key, wrong", "POST", tokens2, `{"auth":{"RAX-KSKEY:apiKeyCredentials":{"username":"bob","apiKey":"x"}}}`, 401, nil},
		{"v2 token", "POST", tokens2, `{"auth":{"token":{"id":"TOKEN-BOB"}}}`, 200, nil},
		{"v2 token, bad", "POST", tokens2, `{"auth":{"token":{"id":"x"}}}`, 401, nil},
		{"v2 nothing", "POST", tokens2, `{"auth":{}}`, 400, nil},
		{"v2 no auth", "POST", tokens2, `{}`, 400, nil},
		{"v2 catalog", "POST", tokens2, " \n", 200, nil},
		{"v2 tenants", "GET", "/identity/v2.0/tenants", "", 200, []string{bob}},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := start(t, nil).call(t, row.method, row.path, row.body, row.headers...)
			if a.status != row.want {
				t.Fatalf("%d %s, want %d", a.status, a.body, row.want)
			}
			if (a.status == 405) != (a.header.Get("Allow") != "") {
				t.Errorf("Allow %q", a.header.Get("Allow"))
			}
			if strings.Contains(a.body, "alice-password") || a.status >= 400 && strings.Contains(a.body, "TOKEN-") {
				t.Errorf("it tells secrets: %s", a.body)
			}
		})
	}
}

func same(t *testing.T, a answer, want string) {
	t.Helper()
	var got, wanted any
	if err := errors.Join(json.Unmarshal([]byte(a.body), &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Error(diff)
	}
}

const endpoints3 = `[{"id":"nova","type":"compute","name":"nova","endpoints":[{"id":"nova-public","interface":"public","region":"R","region_id":"R","url":"http://h.example/v2.1"}]},
	{"id":"glance","type":"image","name":"glance","endpoints":[{"id":"glance-public","interface":"public","region":"R","region_id":"R","url":"http://h.example/image"}]},
	{"id":"keystone","type":"identity","name":"keystone","endpoints":[{"id":"keystone-public","interface":"public","region":"R","region_id":"R","url":"http://h.example/identity"}]}]`

func endpoints2(names, paths, versions [3]string) string {
	var all []string
	for i, kind := range []string{"compute", "image", "identity"} {
		all = append(all, fmt.Sprintf(`{"type":%q,"name":%q,"endpoints_links":[],"endpoints":[{"region":"RegionOne","publicURL":%[3]q,"internalURL":%[3]q,"adminURL":%[3]q,"versionId":%[4]q}]}`,
			kind, names[i], base+paths[i], versions[i]))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// A token of version 3, for a password, for itself, and looked at.
func TestToken3(t *testing.T) {
	h := start(t, func(o *keystone.Options) { o.Region = "R" })
	body := func(method, audit, members string) string {
		return `{"token":{"methods":["` + method + `"],"user":{"id":"guid-a","name":"alice","domain":{"id":"default","name":"Default"},"password_expires_at":null},
		"project":{"id":"books","name":"books","domain":{"id":"default","name":"Default"}},"is_domain":false,
		"roles":[{"id":"member","name":"member"},{"id":"admin","name":"admin"}],"issued_at":"2026-03-01T10:00:00.000000Z","expires_at":"2026-03-01T11:00:00.000000Z",
		"audit_ids":["` + audit + `"]` + members + `}}`
	}
	a := h.call(t, "POST", tokens3, password3("alice", "alice-password"))
	if got := a.header.Get("X-Subject-Token"); got != "NEW-alice" {
		t.Errorf("X-Subject-Token %q", got)
	}
	same(t, a, body("password", "cp5iYXEFaglIDAuu-420ng", `,"catalog":`+endpoints3))
	a = h.call(t, "POST", tokens3, `{"auth":{"identity":{"methods":["token"],"token":{"id":"NEW-alice"}},"scope":{"project":{"id":"books"}}}}`)
	if got := a.header.Get("X-Subject-Token"); got != "NEW-alice" {
		t.Errorf("X-Subject-Token %q", got)
	}
	same(t, a, body("token", "cp5iYXEFaglIDAuu-420ng", `,"catalog":`+endpoints3))
	same(t, h.call(t, "GET", tokens3+"?nocatalog", "", "X-Auth-Token: NEW-alice", "X-Subject-Token: NEW-alice"), body("token", "cp5iYXEFaglIDAuu-420ng", ""))
	same(t, h.call(t, "GET", "/identity/v3/auth/catalog", "", "X-Auth-Token: NEW-alice"), `{"catalog":`+endpoints3+`,"links":{"self":"http://h.example/identity/v3/auth/catalog"}}`)
	same(t, h.call(t, "GET", "/identity/v3/auth/projects", "", "X-Auth-Token: TOKEN-BOB"), `{"projects":[{"id":"guid-b","name":"guid-b","domain_id":"default","enabled":true,"is_domain":false,
		"links":{"self":"http://h.example/identity/v3/projects/guid-b"}}],"links":{"self":"http://h.example/identity/v3/auth/projects","next":null,"previous":null}}`)
}

// A token of version 2.0, with either catalog; the empty body gets the catalog alone.
func TestToken2(t *testing.T) {
	nova := endpoints2([3]string{"nova", "glance", "keystone"}, [3]string{"/v2.1", "/image", "/identity"}, [3]string{"v2.1", "v2", "v2.0"})
	synnefo := endpoints2([3]string{"cyclades_compute", "plankton", "astakos_identity"}, [3]string{"/compute/v2.0", "/image/v1.0", "/identity/v2.0"}, [3]string{"v2.0", "v1.0", "v2.0"})
	for catalog, cyclades := range map[string]bool{nova: false, synnefo: true} {
		h := start(t, func(o *keystone.Options) { o.Cyclades = cyclades })
		same(t, h.call(t, "POST", tokens2, ""), `{"access":{"serviceCatalog":`+catalog+`}}`)
		want := func(id string) string {
			return `{"access":{"token":{"id":"` + id + `","expires":"2026-03-01T11:00:00Z","tenant":{"id":"guid-b","name":"guid-b"}},
				"user":{"id":"guid-b","name":"bob","roles":[{"id":"member","name":"member"}],"roles_links":[]},"serviceCatalog":` + catalog + `}}`
		}
		same(t, h.call(t, "POST", tokens2, password2("bob", "bob-password")), want("NEW-bob"))
		same(t, h.call(t, "POST", tokens2, `{"auth":{"token":{"id":"TOKEN-BOB"}}}`), want("TOKEN-BOB"))
		same(t, h.call(t, "GET", "/identity/v2.0/tenants", "", "X-Auth-Token: TOKEN-ALICE"), `{"tenants":[{"id":"books","name":"books","enabled":true,"description":null}],"tenants_links":[]}`)
	}
}

func TestVersions(t *testing.T) {
	h := start(t, nil)
	v3 := `{"id":"v3.14","status":"stable","updated":"2020-04-07T00:00:00Z","links":[{"rel":"self","href":"http://h.example/identity/v3/"}],
		"media-types":[{"base":"application/json","type":"application/vnd.openstack.identity-v3+json"}]}`
	v2 := `{"id":"v2.0","status":"deprecated","updated":"2016-08-04T00:00:00Z","links":[{"rel":"self","href":"http://h.example/identity/v2.0/"}],
		"media-types":[{"base":"application/json","type":"application/vnd.openstack.identity-v2.0+json"}]}`
	same(t, h.call(t, "GET", "/identity", ""), `{"versions":{"values":[`+v3+`,`+v2+`]}}`)
	same(t, h.call(t, "GET", "/identity/v3/", ""), `{"version":`+v3+`}`)
	same(t, h.call(t, "GET", "/identity/v2.0", ""), `{"version":`+v2+`}`)
	for path, want := range map[string]bool{"/identity": true, "/identity/": true, "/identity/v3/x": true, "/identityx": false, "/": false, "/v3": false} {
		if h.Speaks(path) != want {
			t.Errorf("%s", path)
		}
	}
}

// Without users nobody gets a token for a password; when they cannot be read, that is said.
func TestNoUsers(t *testing.T) {
	h := start(t, func(o *keystone.Options) { o.Users = nil })
	if a := h.call(t, "POST", tokens3, password3("alice", "alice-password")); a.status != 401 {
		t.Errorf("%d %s", a.status, a.body)
	}
	h = start(t, nil)
	h.fail = errors.New("the disk is gone")
	if a := h.call(t, "POST", tokens2, password2("bob", "bob-password")); a.status != 503 || strings.Contains(a.body, "disk") {
		t.Errorf("%d %s", a.status, a.body)
	}
}
