package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
)

const formType = "application/x-www-form-urlencoded"

// one is a host with room for one capsule: it has the ports, and every user the processors, memory and disk, of
// exactly one. What a refused request kept, the next good one lacks.
type one struct {
	*host
	image string
}

func oneHost(t *testing.T) one {
	t.Helper()
	h := startHost(t, `network.ports = "16000-16001"`, "quota.cpus = 1", "quota.memory_mb = 256", "quota.disk_gb = 1")
	return one{h, h.image()}
}

// form is a good createvm that takes all that there is, with some values replaced or added.
func (o one) form(more ...string) url.Values {
	f := url.Values{"imageid": {o.image}, "loginusername": {"dcuser"}, "loginpassword": {"secret"}, "memory": {"256"}, "vcpu": {"1"}}
	for i := 0; i < len(more); i += 2 {
		f.Set(more[i], more[i+1])
	}
	return f
}

// request is what goes over the wire, as it is.
type request struct {
	over   string // "unix", or "tcp"
	method string // "" is POST
	path   string
	header http.Header // nil stands for a form's
	body   string
}

func (h *host) ask(t *testing.T, r request) answer {
	t.Helper()
	// Of a connection that is to be closed, net/http's server resets what it does not read, before its reply is.
	transport := &http.Transport{DisableKeepAlives: len(r.body) < 1<<20, ExpectContinueTimeout: patience}
	defer transport.CloseIdleConnections()
	base, client := "http://127.0.0.1:18080", &http.Client{Timeout: patience, Transport: transport}
	if r.over == "unix" {
		base, client = "http://capsuled", h.Client()
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if r.method == "" {
		r.method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(t.Context(), r.method, base+r.path, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	if req.Header = r.header; r.header == nil {
		req.Header = http.Header{"Content-Type": {formType}}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// doors are the two ways in, each with somebody who may come: a user over TCP, and root over the socket.
func doors(t *testing.T) map[string]http.Header {
	t.Helper()
	return map[string]http.Header{
		"tcp":  {"Content-Type": {formType}, "Authorization": {"Bearer " + as(t, "alice")}},
		"unix": {"Content-Type": {formType}},
	}
}

// whole shows that nothing is left of what came before: nobody has a capsule, nothing is under way, and all that there
// is goes into one more, for each of those who asked.
func (o one) whole(t *testing.T) {
	t.Helper()
	if ids := vmids(o.ctl("list", "--json")); len(ids) > 0 {
		t.Fatalf("left behind: capsules %v", ids)
	}
	for over, header := range doors(t) {
		if under := o.ask(t, request{over: over, method: "GET", path: "/v1/operations?state=running", header: header}); under.body != "{\"operations\":[]}\n" {
			t.Errorf("under way: %s", under.body)
		}
		made := o.ask(t, request{over: over, path: "/createvm", header: header, body: o.form().Encode()})
		var created wire.Created
		if err := json.Unmarshal([]byte(made.body), &created); made.status != 200 || err != nil {
			t.Fatalf("left behind: what a good request by %s needs: %+v", over, made)
		}
		o.wait(made)
		if st := o.status(created.VMID); st.SSHPort != 16000 || st.VNCPort != 16001 || st.State != "SHUTDOWN" {
			t.Errorf("left behind: ports below %d and %d, or %+v", st.SSHPort, st.VNCPort, st)
		}
		if net := virsh(t, "net-dumpxml", "capsules"); strings.Count(net, "name='cap-") != 1 || !strings.Contains(net, "ip='192.168.53.2'") {
			t.Errorf("left behind: an address: %s", net)
		}
		o.wait(o.ask(t, request{over: over, path: "/deletevm", header: header, body: "vmid=" + created.VMID}))
	}
	if traces, err := rig.Traces(t.Context(), o.dir); err != nil || len(traces) > 0 {
		t.Errorf("left behind: %v, %v", traces, err)
	}
}

// refused checks a refusal of the capsule dialect: its status, its body, its code, and the words it must say.
func refused(t *testing.T, a answer, status int, code string, words ...string) {
	t.Helper()
	var e wire.Error
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil || a.status != status || e.StatusCode != status || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("want %d and an error body, got %d %s", status, a.status, brief(a.body))
		return
	}
	saysWell(t, a, e.Description, code, words)
}

// problem is refused for the native dialect.
func problem(t *testing.T, a answer, status int, code string, words ...string) {
	t.Helper()
	var p wire.Problem
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || a.status != status || p.Code != code || p.Request == "" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("want %d %s and a problem, got %d %s", status, code, a.status, brief(a.body))
		return
	}
	saysWell(t, a, p.Message, code, words)
}

func saysWell(t *testing.T, a answer, text, code string, words []string) {
	t.Helper()
	if got := a.header.Get(wire.ErrorCodeHeader); got != code {
		t.Errorf("code %q, want %q: %s", got, code, brief(text))
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q: %s", w, brief(text))
		}
	}
	if text == "" || len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }) {
		t.Errorf("not a clear sentence: %q", brief(text))
	}
}

func brief(s string) string { return s[:min(len(s), 500)] }

// texts are the fields of createvm that hold what a person wrote.
var texts = []string{"title", "desc_nature", "desc_requirement", "desc_links", "desc_outside_data", "rr_data_files", "rr_result_usage"}

// everywhere are values that no field may have.
var everywhere = []string{
	"a\x01b", "a\x1b[2Jb", "a\x00b", "\x00", "a\x7fb", "a\u009bb", "a\u202eb", "a\u2028b", "a\vb", "\ufeff\x08",
	"a\xff\xfeb", "\xed\xa0\x80", "\xc0\x80", "\xf5\x80\x80\x80", strings.Repeat("a", 3000), strings.Repeat("ü", 2100),
}

// nowhere are the values that a field in particular may not have.
var nowhere = map[string][]string{
	"imageid": {"", "guest", "../../etc/passwd", "$(touch x)", "{6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10}", "6f1c7a520b5e4c649a530d2f5d1f7a10",
		"urn:uuid:6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10", " 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10", "' OR 1=1 --"},
	"loginusername": {"", "a b", "$(touch x)", "a;b", "a\nb", "ünal", "a/b", "a'b"},
	"loginpassword": {"", "123456789", "pässword", "ünï", "1234567\n", "\t"},
	"memory": {"", "0", "-1", "-256", "+256", "256.0", "2.56e2", "0x100", "0b1", "0400", " 256", "256 ", "256M", "1G", "NaN", "Inf", "1_0", "1,0", "one",
		"１２８", "2147483648", "4294967552", "9223372036854775808", "18446744073709551872", strings.Repeat("9", 400), "1"},
	"vcpu": {"", "0", "-1", "+1", "1.0", "1e0", "0x1", "01", " 1", "1 ", "NaN", "one", "1024", "4294967297", "18446744073709551617",
		strings.Repeat("1", 400)},
	"type":              {"", "research", "RESEARCH ", "ADMIN", "DEMO,RESEARCH", "null"},
	"consent":           {"", "yes", "1", "truee", "null"},
	"full_access":       {"", "yes", "1", "falsee", "null"},
	"title":             {"a\nb", "a\tb", strings.Repeat("a", 257)},
	"desc_nature":       {strings.Repeat("a", 2049)},
	"desc_requirement":  {strings.Repeat("a", 2049)},
	"desc_links":        {strings.Repeat("a", 2049)},
	"desc_outside_data": {strings.Repeat("a", 2049)},
	"rr_data_files":     {strings.Repeat("a", 2049)},
	"rr_result_usage":   {strings.Repeat("a", 2049)},
}

// TestBadParameters gives every field of createvm what it may not hold, in every way that a form can be wrong.
func TestBadParameters(t *testing.T) {
	o := oneHost(t)
	groups := map[string]func(*testing.T, request){
		"values": o.badValues, "forms": o.badForms, "http": o.badHTTP, "quota": o.beyondQuota,
	}
	for name, group := range groups {
		t.Run(name, func(t *testing.T) {
			for over, header := range doors(t) {
				t.Run(over, func(t *testing.T) { group(t, request{over: over, path: "/createvm", header: header}) })
			}
			o.whole(t)
		})
	}
}

func (o one) badValues(t *testing.T, r request) {
	for field, particular := range nowhere {
		for _, value := range append(everywhere[:len(everywhere):len(everywhere)], particular...) {
			t.Run(fmt.Sprintf("%s=%.40q", field, value), func(t *testing.T) {
				r.body = o.form(field, value).Encode()
				a := o.ask(t, r)
				refused(t, a, 400, "invalid", field)
				if field == "loginpassword" && len(value) > 2 && strings.Contains(a.body, value) {
					t.Errorf("it repeats a password: %s", brief(a.body))
				}
			})
		}
		t.Run(field+" of 10 MB", func(t *testing.T) {
			r.body = o.form(field, strings.Repeat("a", 10<<20)).Encode()
			refused(t, o.ask(t, r), 413, "invalid")
		})
	}
}

func (o one) badForms(t *testing.T, r request) {
	good := o.form().Encode()
	type row struct {
		body  string
		words []string
	}
	rows := []row{
		{"", []string{"imageid is missing", "loginusername is missing", "loginpassword is missing"}},
		{"&&&", []string{"imageid is missing"}},
		{good + "&colour=blue&vmid=1", []string{`"colour"`, `"vmid"`}},
		{good + "&IMAGEID=" + o.image, []string{`"IMAGEID"`}},
		{good + "&memory%00=1", []string{`"memory\x00"`}},
		{good + "&memory%5B%5D=1", []string{`"memory[]"`}},
		{good + "&=1", []string{`""`}},
		{good + "&%1b%5B2J%ff=1", []string{"unknown"}},
		{good + "&" + strings.Repeat("n", 10000) + "=1", []string{"unknown"}},
		{good + strings.Repeat("&x=1", 5000), []string{"unknown"}},
		{good + "&title=%zz", []string{"well-formed"}},
		{good + "&title=%", []string{"well-formed"}},
		{good + "&title=a;b", []string{"well-formed"}},
		{`{"imageid":"` + o.image + `"}`, []string{"imageid is missing"}},
		{strings.ReplaceAll(o.form("memory", "-1", "vcpu", "-1", "title", "\x01").Encode(), "imageid", "image"), []string{"memory", "vcpu", "title", "imageid is missing", `"image"`}},
	}
	for field := range nowhere { // each twice, the same and another
		full := o.form(field, "1").Encode()
		rows = append(rows, row{full + "&" + field + "=1", []string{field + " is given more than once"}}, row{field + "=&" + full, []string{field + " is given more than once"}})
	}
	for _, required := range []string{"imageid", "loginusername", "loginpassword"} {
		f := o.form()
		f.Del(required)
		rows = append(rows, row{f.Encode(), []string{required + " is missing"}})
	}
	for _, row := range rows {
		t.Run(fmt.Sprintf("%.60q", strings.TrimPrefix(row.body, good)), func(t *testing.T) {
			r.body = row.body
			refused(t, o.ask(t, r), 400, "invalid", row.words...)
		})
	}
}

// beyondQuota asks for one more than there is of each.
func (o one) beyondQuota(t *testing.T, r request) {
	for field, value := range map[string]string{"vcpu": "2", "memory": "257"} {
		r.body = o.form(field, value).Encode()
		refused(t, o.ask(t, r), 400, "over_quota", "quota of "+field)
	}
}

// TestTextIsData gives the texts what a shell, a database or an XML parser would act upon: it comes back byte for byte.
func TestTextIsData(t *testing.T) {
	o := oneHost(t)
	mark := filepath.Join("/run", "mark") // the host's own /run; a title has 256 characters
	touch := "touch " + mark
	odd := "$(" + touch + ") `" + touch + "`; " + touch + " | \" ' \\ * ? ~ ! # %n ${IFS} '); DROP TABLE capsules;-- ]]></name>&amp;<!ENTITY x> äöü 漢字 🜛 +%20"
	f := o.form("loginpassword", "\"'$<&;>`")
	for i, field := range texts {
		if f.Set(field, fmt.Sprint(i, odd)); field != "title" {
			f.Set(field, fmt.Sprint(i, odd, "\n\t--end\n"))
		}
	}
	made := o.post(as(t, "alice"), "/createvm", f)
	o.wait(made)
	var created wire.Created
	if err := json.Unmarshal([]byte(made.body), &created); err != nil {
		t.Fatal(err)
	}
	o.ctl("launch", "--wait", created.VMID)
	shown := o.post(as(t, "alice"), "/show", url.Values{"vmid": {created.VMID}})
	var list struct{ Status []map[string]any }
	if err := json.Unmarshal([]byte(shown.body), &list); err != nil || len(list.Status) != 1 {
		t.Fatal(shown)
	}
	want, got := map[string]any{}, map[string]any{}
	for _, field := range texts {
		want[field], got[field] = f.Get(field), list.Status[0][field]
	}
	want["password"], got["password"] = f.Get("loginpassword"), list.Status[0]["vncloginPassword"]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was written and what is shown: %s", diff)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a text was executed")
	}
	o.ctl("delete", "--yes", "--wait", created.VMID)
	o.whole(t)
}
