package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/wire"
)

// turn is one cell of the contract's table of states: what a call gets in a state, and what becomes of it.
type turn struct {
	state string // in which the capsule is, "" once it is deleted
	verb  string
	code  string // of the refusal; "" when it is 200
	then  string // state once the operation has ended; "" when nothing changes, or the capsule is gone
}

// road goes through every cell: each of the states that last, with each of the calls. ERROR comes of a killed QEMU.
var road = []turn{
	{"SHUTDOWN", "show", "", ""}, {"SHUTDOWN", "stopvm", "conflict", ""}, {"SHUTDOWN", "launchvm", "", "RUNNING"},
	{"RUNNING", "show", "", ""}, {"RUNNING", "launchvm", "conflict", ""}, {"RUNNING", "stopvm", "", "SHUTDOWN"},
	{"SHUTDOWN", "launchvm", "", "RUNNING"}, {"RUNNING", "kill", "", "ERROR"},
	{"ERROR", "show", "", ""}, {"ERROR", "launchvm", "conflict", ""}, {"ERROR", "stopvm", "", "SHUTDOWN"},
	{"SHUTDOWN", "deletevm", "", ""},
	{"", "show", "not_found", ""}, {"", "launchvm", "not_found", ""}, {"", "stopvm", "not_found", ""}, {"", "deletevm", "not_found", ""},
}

// otherEnds are the ways out that the road does not take.
var otherEnds = [][]turn{
	{{"SHUTDOWN", "launchvm", "", "RUNNING"}, {"RUNNING", "deletevm", "", ""}, {"", "deletevm", "not_found", ""}},
	{{"SHUTDOWN", "launchvm", "", "RUNNING"}, {"RUNNING", "kill", "", "ERROR"}, {"ERROR", "deletevm", "", ""}, {"", "show", "not_found", ""}},
}

// TestStates walks through the contract's table of states (section 5).
func TestStates(t *testing.T) {
	h := startHost(t, `network.ports = "16000-16001"`, `capsule.stop_grace = "1s"`)
	o := one{h, h.image()}
	for _, turns := range append(otherEnds, road) {
		made := o.post(as(t, "alice"), "/createvm", o.form())
		o.wait(made)
		id := vmid(t, made)
		for _, turn := range turns {
			t.Run(turn.state+" "+turn.verb, func(t *testing.T) { o.take(t, id, turn) })
		}
	}
	o.whole(t)
}

func vmid(t *testing.T, made answer) string {
	t.Helper()
	var c wire.Created
	if err := json.Unmarshal([]byte(made.body), &c); err != nil || c.VMID == "" {
		t.Fatal(made)
	}
	return c.VMID
}

func (o one) take(t *testing.T, id string, turn turn) {
	alice, form := as(t, "alice"), url.Values{"vmid": {id}}
	if turn.verb == "kill" {
		kill(t, qemu(t, id), syscall.SIGKILL)
		if st := o.await(id, turn.then); st.Cause == nil || st.Mode != "NOT_DEFINED" || st.Observed != "off" {
			t.Errorf("after QEMU was killed: %+v", st)
		}
		return
	}
	a := o.post(alice, "/"+turn.verb, form)
	switch {
	case turn.code != "":
		refused(t, a, 400, turn.code, id)
	case turn.verb == "show":
		if st := o.status(id); a.status != 200 || st.State != turn.state {
			t.Errorf("%+v: %+v", a, st)
		}
	case a.body != "":
		t.Errorf("a body where the contract has none: %+v", a)
	default:
		o.wait(a)
	}
	if turn.then != "" {
		if st := o.status(id); st.State != turn.then || st.Cause != nil {
			t.Errorf("it is %s (%v), want %s", st.State, st.Cause, turn.then)
		}
	}
	gone := turn.state == "" || turn.verb == "deletevm"
	if list := o.send(alice, "GET", "/listvms", "", ""); list.status != 200 || gone == strings.Contains(list.body, id) {
		t.Errorf("gone is %v, and listvms says %s", gone, list.body)
	}
}

// TestPendingState asks for everything while a guest that cannot hear is asked to shut down.
func TestPendingState(t *testing.T) {
	h := startHost(t, `network.ports = "16000-16001"`, `capsule.stop_grace = "5s"`)
	o := one{h, h.image()}
	alice := as(t, "alice")
	made := o.post(alice, "/createvm", o.form())
	o.wait(made)
	form := url.Values{"vmid": {vmid(t, made)}}
	o.wait(o.post(alice, "/launchvm", form))
	stopping := o.post(alice, "/stopvm", form)
	for _, verb := range []string{"launchvm", "stopvm", "deletevm"} {
		a := o.post(alice, "/"+verb, form)
		refused(t, a, 400, "busy", form.Get("vmid"), "stop")
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", verb)
		}
	}
	if st := o.status(form.Get("vmid")); st.State != "SHUTDOWN_PENDING" {
		t.Errorf("while it stops it is %s", st.State)
	}
	o.wait(stopping)
	if st := o.status(form.Get("vmid")); st.State != "SHUTDOWN" {
		t.Errorf("after it stopped it is %s", st.State)
	}
}

// TestBadVMID gives every call on a capsule what is no capsule, or not the caller's.
func TestBadVMID(t *testing.T) {
	o := oneHost(t)
	made := o.post(as(t, "bob"), "/createvm", o.form())
	o.wait(made)
	theirs := vmid(t, made)
	bare := strings.ReplaceAll(theirs, "-", "")
	for _, verb := range []string{"show", "launchvm", "stopvm", "deletevm"} {
		for over, header := range doors(t) {
			bad := []string{"", "x", "0", bare, "{" + theirs + "}", "urn:uuid:" + theirs, " " + theirs, theirs + "\n", theirs + "\x00", theirs[:35], "cap-" + theirs[:8], theirs + "/../" + theirs,
				"$(reboot)", "' OR '1'='1", "%", "../../etc", "\xff\xfe", "\x1b[2J", strings.Repeat("a", 3000)}
			for _, id := range bad {
				t.Run(fmt.Sprintf("%s %s %.40q", verb, over, id), func(t *testing.T) {
					refused(t, o.ask(t, request{over: over, path: "/" + verb, header: header, body: url.Values{"vmid": {id}}.Encode()}), 400, "invalid", "vmid")
				})
			}
			refused(t, o.ask(t, request{over: over, path: "/" + verb, header: header, body: "vmid=" + theirs + "&vmid=" + theirs}), 400, "invalid", "vmid is given more than once")
			refused(t, o.ask(t, request{over: over, path: "/" + verb, header: header, body: "vmId=" + theirs}), 400, "invalid", `"vmId"`)
			refused(t, o.ask(t, request{over: over, path: "/" + verb, header: header, body: "vmid=" + strings.Repeat("a", 10<<20)}), 413, "invalid")
			if verb != "show" {
				refused(t, o.ask(t, request{over: over, path: "/" + verb, header: header}), 400, "invalid", "vmid is missing")
			}
		}
		// What is another's is as unknown as what never was.
		said := map[string]bool{}
		for _, id := range []string{uuid.NewString(), uuid.Nil.String(), theirs, strings.ToUpper(theirs)} {
			a := o.post(as(t, "alice"), "/"+verb, url.Values{"vmid": {id}})
			refused(t, a, 400, "not_found", "no capsule")
			said[strings.ReplaceAll(a.body, strings.ToLower(id), "ID")] = true
		}
		if len(said) != 1 {
			t.Errorf("%s: another's capsule can be told from none: %v", verb, said)
		}
	}
	if st := o.status(theirs); st.State != "SHUTDOWN" {
		t.Errorf("bob's capsule is %+v", st)
	}
	upper := url.Values{"vmid": {strings.ToUpper(theirs)}} // a UUID has no case (RFC 9562)
	if a := o.post(as(t, "bob"), "/show", upper); a.status != 200 || !strings.Contains(a.body, theirs) {
		t.Errorf("in upper case: %+v", a)
	}
	o.wait(o.post(as(t, "bob"), "/deletevm", upper))
	for _, verb := range []string{"show", "launchvm", "stopvm", "deletevm"} {
		refused(t, o.post(as(t, "bob"), "/"+verb, url.Values{"vmid": {theirs}}), 400, "not_found", "no capsule")
	}
	o.whole(t)
}

// atOnce sends n requests at the same time, and returns the answers by X-Error-Code, "" for 200.
func (h *host) atOnce(t *testing.T, n int, path string, form url.Values) map[string][]answer {
	t.Helper()
	got, header := make([]answer, n), doors(t)["tcp"]
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range got {
		wg.Go(func() {
			<-begin
			got[i] = h.ask(t, request{path: path, header: header.Clone(), body: form.Encode()})
		})
	}
	close(begin)
	wg.Wait()
	by := map[string][]answer{}
	for _, a := range got {
		code := a.header.Get(wire.ErrorCodeHeader)
		if by[code] = append(by[code], a); code != "" {
			refused(t, a, a.status, code)
		}
	}
	return by
}

// TestAtOnce asks ten times for the same at once: one gets it, and the others are told why not.
func TestAtOnce(t *testing.T) {
	h := startHost(t, "quota.cpus = 3", "quota.memory_mb = 768", "quota.disk_gb = 3", `capsule.stop_grace = "1s"`)
	o := one{h, h.image()}
	made := o.atOnce(t, 20, "/createvm", o.form())
	if len(made[""]) != 3 || len(made["over_quota"]) != 17 {
		t.Fatalf("of 20 createvm with a quota of 3: %d, and %d over quota", len(made[""]), len(made["over_quota"]))
	}
	var ids []string
	ports := map[int]bool{}
	for _, a := range made[""] {
		o.wait(a)
		st := o.status(vmid(t, a))
		ids = append(ids, st.VMID)
		ports[st.SSHPort], ports[st.VNCPort] = true, true
	}
	if net := virsh(t, "net-dumpxml", "capsules"); len(ports) != 6 || strings.Count(net, "name='cap-") != 3 {
		t.Errorf("ports %v, leases %s", ports, net)
	}
	for _, verb := range []string{"launchvm", "stopvm", "deletevm"} {
		got := o.atOnce(t, 10, "/"+verb, url.Values{"vmid": {ids[0]}})
		if losers := slices.Concat(got["busy"], got["conflict"], got["not_found"]); len(got[""]) != 1 || len(losers) != 9 {
			t.Fatalf("of 10 %s at once: %d, and %d losers", verb, len(got[""]), len(losers))
		}
		o.wait(got[""][0])
	}
	// What the deleted one had, and not more, is there again: to the last bit.
	again := o.atOnce(t, 5, "/createvm", o.form())
	if len(again[""]) != 1 || len(again["over_quota"]) != 4 {
		t.Fatalf("of 5 createvm with room for one: %d, and %d over quota", len(again[""]), len(again["over_quota"]))
	}
	o.wait(again[""][0])
}

// TestCreateFails takes an image's file away behind the daemon's back. The capsule that cannot be made is in ERROR and
// says why; what it held is free before it is deleted.
func TestCreateFails(t *testing.T) {
	o := oneHost(t)
	alice := as(t, "alice")
	files, err := filepath.Glob(filepath.Join(o.dir, "images", "*.qcow2"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	aside := filepath.Join(o.dir, "aside")
	if err := os.Rename(files[0], aside); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 2 { // in a host with room for one
		made := o.post(alice, "/createvm", o.form())
		if made.status != 200 {
			t.Fatal(made)
		}
		o.complaint(t, 8, []string{"clone"}, "operation", "wait", filepath.Base(made.header.Get(wire.OperationHeader)))
		id := vmid(t, made)
		ids = append(ids, id)
		if st := o.status(id); st.State != "ERROR" || st.Cause == nil || !strings.Contains(*st.Cause, "clone") || st.Observed != "absent" {
			t.Errorf("%+v", st)
		}
		for _, verb := range []string{"launchvm", "stopvm"} { // there is nothing to repair
			refused(t, o.post(alice, "/"+verb, url.Values{"vmid": {id}}), 400, "conflict", id)
		}
	}
	if err := os.Rename(aside, files[0]); err != nil {
		t.Fatal(err)
	}
	made := o.post(alice, "/createvm", o.form())
	o.wait(made)
	for _, id := range append(ids, vmid(t, made)) {
		o.wait(o.post(alice, "/deletevm", url.Values{"vmid": {id}}))
	}
	o.whole(t)
}
