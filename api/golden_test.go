package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/internal/golden"
)

const firstCapsule = "00000000-0000-4000-8000-000000000001"

// transcript is every call of a story with its reply, for comparison with a golden file.
type transcript struct {
	*host
	strings.Builder
}

func (tr *transcript) call(t *testing.T, method, path, body string) {
	t.Helper()
	a := tr.local(t, method, path, body, "X-Request-Id: golden")
	fmt.Fprintf(tr, "> %s %s\n", method, path)
	if body != "" {
		fmt.Fprintf(tr, "> %s\n", body)
	}
	fmt.Fprintf(tr, "%d\n", a.StatusCode)
	for _, name := range []string{"Content-Type", "Location", "Operation-Location", "X-Error-Code", "Retry-After", "Allow"} {
		if v := a.Header.Get(name); v != "" {
			fmt.Fprintf(tr, "%s: %s\n", name, v)
		}
	}
	fmt.Fprintf(tr, "%s\n", a.body)
}

func TestCapsuleDialectGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	vmid := "vmid=" + firstCapsule
	tr.call(t, "POST", "/show", "")
	tr.call(t, "GET", "/listvms", "")
	tr.call(t, "POST", "/createvm", "imageid=image-1&loginusername=dc+user&loginpassword=123456789&memory=0&vcpu=1e3&colour=red&vcpu=2")
	tr.call(t, "POST", "/createvm", "imageid=image-9&loginusername=dcuser&loginpassword=secret")
	tr.call(t, "POST", "/createvm", "imageid=image-1&loginusername=dcuser&loginpassword=secret")
	tr.call(t, "POST", "/sloan-ws/createvm", "imageid=image-1&loginusername=dcuser&loginpassword=s%3B%24%28%29&memory=2048&vcpu=2&type=DEMO"+
		"&consent=True&full_access=false&title=%3Cb%3EBooks%3C%2Fb%3E&desc_nature=one%0D%0Atwo%09three")
	tr.call(t, "POST", "/show", "")
	tr.call(t, "POST", "/launchvm", vmid)
	tr.set(func(f *fakeDaemon) { f.capsules[firstCapsule].State = daemon.Shutdown })
	tr.call(t, "POST", "/launchvm", vmid)
	tr.set(func(f *fakeDaemon) {
		c := f.capsules[firstCapsule]
		c.State, c.Mode, c.Observed, c.Cause = daemon.Running, daemon.Maintenance, "paused", "the disk is full"
	})
	tr.call(t, "POST", "/show", vmid)
	tr.call(t, "GET", "/listvms", "")
	tr.call(t, "POST", "/switchvm", vmid)
	tr.call(t, "POST", "/switchvm", vmid+"&mode=s&review=yes")
	tr.call(t, "POST", "/switchvm", vmid+"&mode=maintenance&review=true")
	tr.call(t, "POST", "/switchvm", vmid+"&mode=maintenance")
	tr.call(t, "POST", "/sloan-ws/switchvm", vmid+"&mode=SECURE")
	tr.call(t, "POST", "/show", vmid)
	tr.call(t, "POST", "/switchvm", vmid+"&mode=maintenance")
	tr.set(func(f *fakeDaemon) { f.capsules[firstCapsule].State = daemon.Running })
	tr.call(t, "POST", "/stopvm", vmid)
	tr.call(t, "POST", "/deletevm", vmid)
	tr.call(t, "POST", "/deletevm", "vmid=nonsense")
	tr.call(t, "GET", "/deletevm", "")
	tr.call(t, "GET", "/sloan-ws/nowhere", "")
	golden.Check(t, "capsule", tr.String())
}

// A redacted entry shows that the capsule exists and what the caller is to it; the daemon's own record is whole here,
// so that nothing but the codec withholds it.
func TestRedactedGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	yes, title := true, "the title"
	tr.set(func(f *fakeDaemon) {
		f.capsules[firstCapsule] = &daemon.Capsule{ID: firstCapsule, CreatedAt: epoch, State: daemon.Running, Mode: daemon.Secure,
			Cause: "a cause", Observed: "running", Type: daemon.ResearchFull, ImageName: "image", VCPUs: 4, MemoryMB: 4096, VolumeGB: 10,
			SSHPort: 16000, VNCPort: 16001, LoginUser: "login", LoginPassword: "hidden", ImageUser: "user", ImagePassword: "hidden",
			Consent: &yes, About: daemon.About{Title: &title, DescShared: &title}, Host: "host-1", PublicIP: "192.0.2.1", HostCPUs: 8, HostMemoryGB: 64,
			Members: []daemon.Member{{GUID: "owner", Email: "owner@example.org", Role: daemon.OwnerController, TOU: true, FullAccess: &yes},
				{GUID: "sharee", Email: "sharee@example.org", Role: daemon.Sharee}},
			CallerRole: daemon.Sharee, CallerGlobalTOU: true, CallerHasKey: true, CapsuleFullAccess: &yes, Redacted: true}
	})
	tr.call(t, "POST", "/show", "vmid="+firstCapsule)
	tr.call(t, "GET", "/listvms", "")
	golden.Check(t, "redacted", tr.String())
}

// The calls about one capsule, its fence and the host.
func TestSecureGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	tr.call(t, "GET", "/v1/capsules", "")
	tr.local(t, "POST", "/createvm", createForm)
	capsule := "/v1/capsules/" + firstCapsule
	tr.call(t, "GET", capsule+"/records", "")
	tr.set(func(f *fakeDaemon) {
		c := f.capsules[firstCapsule]
		c.State, c.Mode, c.Observed, c.Cause = daemon.Failed, daemon.Secure, "paused", "held: the bridge layer could not be read"
	})
	tr.call(t, "GET", "/v1/capsules", "")
	tr.call(t, "GET", capsule, "")
	tr.call(t, "GET", "/v1/capsules/00000000-0000-4000-8000-000000000009", "")
	tr.call(t, "PUT", capsule+"/type", `{"type":"RESEARCH-FULL"}`)
	tr.call(t, "PUT", capsule+"/type", `{"type":"research"}`)
	tr.call(t, "POST", capsule+"/resume", "")
	tr.call(t, "GET", capsule+"/proof", "")
	tr.call(t, "GET", capsule+"/records", "")
	tr.call(t, "GET", capsule+"/policy", "")
	tr.call(t, "GET", capsule+"/policy/explain?packet=tcp%20to%20192.0.2.1:443", "")
	tr.call(t, "GET", capsule+"/policy/explain", "")
	tr.call(t, "GET", "/v1/policies", "")
	tr.call(t, "POST", "/v1/policies/reload", "")
	tr.call(t, "GET", "/v1/policies/reload", "")
	tr.call(t, "GET", "/v1/doctor", "")
	golden.Check(t, "secure", tr.String())
}

// What the verbs of the modes get is what was sent, in normal form.
func TestSwitchReachesTheDaemon(t *testing.T) {
	h := start(t, nil)
	h.local(t, "POST", "/createvm", createForm)
	h.set(func(f *fakeDaemon) {
		f.capsules[firstCapsule].State, f.capsules[firstCapsule].Mode = daemon.Running, daemon.Maintenance
	})
	upper := strings.ToUpper(firstCapsule)
	if a := h.local(t, "POST", "/switchvm", "vmid="+upper+"&mode=Secure&review=TRUE"); a.StatusCode != 200 || a.body != "" {
		t.Error(a.StatusCode, a.body)
	}
	if a := h.local(t, "PUT", "/v1/capsules/"+upper+"/type", `{"type":"DEMO"}`); a.StatusCode != 204 || a.body != "" {
		t.Error(a.StatusCode, a.body)
	}
	if a := h.local(t, "GET", "/v1/capsules/"+upper+"/policy/explain?packet=udp+to+host%3A53", ""); a.StatusCode != 200 {
		t.Error(a.StatusCode, a.body)
	}
	want := []switched{{ID: firstCapsule, Mode: daemon.Secure, Review: true}, {ID: firstCapsule, Type: daemon.Demo}, {ID: firstCapsule, Packet: "udp to host:53"}}
	if diff := cmp.Diff(want, h.switched); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNativeDialectGolden(t *testing.T) {
	tr := &transcript{host: start(t, nil)}
	tr.call(t, "GET", "/v1/images", "")
	tr.call(t, "POST", "/v1/images", `{"name":"noble","path":"/srv/noble.img","public":true,"description":"a\r\nb","login_user":"dcuser"}`)
	tr.call(t, "GET", "/v1/images/image-2", "")
	tr.call(t, "GET", "/v1/images/image-9", "")
	tr.call(t, "GET", "/v1/operations/op-1", "")
	tr.end("op-1", "")
	tr.call(t, "GET", "/v1/operations/op-1?wait=60", "")
	tr.call(t, "DELETE", "/v1/images/image-2", "")
	tr.end("op-2", "no space left")
	tr.call(t, "GET", "/v1/operations?target=image-2&limit=5", "")
	tr.call(t, "GET", "/v1/operations?state=running", "")
	tr.call(t, "GET", "/v1/operations/op-3", "")
	tr.call(t, "PUT", "/v1/images", "")
	tr.call(t, "GET", "/v1/nowhere", "")
	tr.call(t, "GET", "/healthz", "")
	tr.call(t, "GET", "/readyz", "")
	tr.set(func(f *fakeDaemon) { f.ready = daemon.Readiness{Reasons: []string{"libvirt: connection refused"}} })
	tr.call(t, "GET", "/readyz", "")
	golden.Check(t, "native", tr.String())
}
