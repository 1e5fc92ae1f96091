package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

const (
	form     = "[application/x-www-form-urlencoded] "
	jsonBody = "[application/json] "
	id       = "0a1b2c3d-0000-4000-8000-000000000000"
)

var no = false

// calls holds what each method puts on the wire, byte for byte, and what it makes of the reply.
var calls = []struct {
	name   string
	reply  string
	asked  string
	got    any
	invoke func(context.Context, *client.Client) (any, error)
}{
	{"create", `{"vmid":"` + id + `"}`,
		"POST /createvm " + form + "consent=false&desc_nature=a%26b%0Ac&imageid=i-1&loginpassword=p+%25%3D%2B&loginusername=dcuser" +
			"&memory=2048&title=caf%C3%A9&type=DEMO&vcpu=2",
		[2]string{id, "op-1"},
		func(ctx context.Context, c *client.Client) (any, error) {
			vmid, op, err := c.CreateCapsule(ctx, client.NewCapsule{ImageID: "i-1", LoginUser: "dcuser", LoginPassword: "p %=+",
				MemoryMB: 2048, VCPUs: 2, Type: "DEMO", Consent: &no, Title: "café", DescNature: "a&b\nc"})
			return [2]string{vmid, op}, err
		}},
	{"create with defaults", `{"vmid":"` + id + `"}`, "POST /createvm " + form + "imageid=i-1", [2]string{id, "op-1"},
		func(ctx context.Context, c *client.Client) (any, error) {
			vmid, op, err := c.CreateCapsule(ctx, client.NewCapsule{ImageID: "i-1"})
			return [2]string{vmid, op}, err
		}},
	{"launch", "", "POST /launchvm " + form + "vmid=" + id, "op-1",
		func(ctx context.Context, c *client.Client) (any, error) { return c.LaunchCapsule(ctx, id) }},
	{"stop", "", "POST /stopvm " + form + "vmid=" + id, "op-1",
		func(ctx context.Context, c *client.Client) (any, error) { return c.StopCapsule(ctx, id) }},
	{"delete", "", "POST /deletevm " + form + "vmid=" + id, "op-1",
		func(ctx context.Context, c *client.Client) (any, error) { return c.DeleteCapsule(ctx, id) }},
	{"show", `{"status":[{"vmid":"` + id + `","sshport":16000,"consent":null,"later":1}]}`, "POST /show " + form + "vmid=" + id,
		wire.StatusList{Status: []wire.Status{{VMID: id, SSHPort: 16000}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.ShowCapsules(ctx, id) }},
	{"show own", `{"status":[]}`, "POST /show " + form, wire.StatusList{Status: []wire.Status{}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.ShowCapsules(ctx, "") }},
	{"list", `{"vmsInfo":[{"vmid":"` + id + `","username":null}]}`, "GET /listvms [] ",
		wire.VMList{VMsInfo: []wire.VMInfo{{VMID: id}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.ListCapsules(ctx) }},
	{"add image", `{"id":"i-1","operation":{"id":"op-1"}}`,
		"POST /v1/images " + jsonBody + `{"name":"n","public":true,"path":"/p","login_user":"u"}`,
		wire.Accepted{ID: "i-1", Operation: wire.Operation{ID: "op-1"}},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.AddImage(ctx, wire.NewImage{Name: "n", Public: true, Path: "/p", LoginUser: "u"})
		}},
	{"images", `{"images":[{"id":"i-1","file_bytes":5}]}`, "GET /v1/images [] ",
		wire.ImageList{Images: []wire.Image{{ID: "i-1", FileBytes: 5}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Images(ctx, client.ImageFilter{}) }},
	{"image", `{"id":"i-1"}`, "GET /v1/images/i-1 [] ", wire.Image{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Image(ctx, "i-1") }},
	{"delete image", `{"id":"i-1","operation":{"id":"op-1"}}`, "DELETE /v1/images/i-1 [] ",
		wire.Accepted{ID: "i-1", Operation: wire.Operation{ID: "op-1"}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.DeleteImage(ctx, "i-1") }},
	{"some images", `{"images":[],"more":true}`, "GET /v1/images?limit=5&marker=i-1&name=a+b&owner=me&state=any&visibility=public [] ",
		wire.ImageList{Images: []wire.Image{}, More: true},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Images(ctx, client.ImageFilter{Name: "a b", State: "any", Owner: "me", Visibility: "public", Limit: 5, Marker: "i-1"})
		}},
	{"add image from a URL", `{"id":"i-1"}`, "POST /v1/images " + jsonBody + `{"name":"n","public":false,"visibility":"shared","digest":"d","url":"https://h/x"}`,
		wire.Accepted{ID: "i-1"}, func(ctx context.Context, c *client.Client) (any, error) {
			return c.AddImage(ctx, wire.NewImage{Name: "n", Visibility: "shared", URL: "https://h/x", Digest: "d"})
		}},
	{"new upload", `{"id":"i-1"}`, "POST /v1/images " + jsonBody + `{"name":"n","public":false,"bytes":5}`, wire.Image{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) {
			n := int64(5)
			return c.NewUpload(ctx, wire.NewImage{Name: "n", Bytes: &n})
		}},
	{"set image", `{"id":"i-1"}`, "PATCH /v1/images/i-1 " + jsonBody + `{"name":"","protected":false,"min_disk_gb":0,"metadata":{"a":""},"remove_metadata":["b"]}`,
		wire.Image{ID: "i-1"}, func(ctx context.Context, c *client.Client) (any, error) {
			return c.SetImage(ctx, "i-1", wire.ImageChange{Name: new(string), Protected: &no, MinDiskGB: new(int), Metadata: map[string]string{"a": ""}, RemoveMetadata: []string{"b"}})
		}},
	{"delete image later", `{"id":"i-1"}`, "DELETE /v1/images/i-1?later=true [] ", wire.Image{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.RequestImageDelete(ctx, "i-1") }},
	{"verify image", `{"id":"i-1"}`, "POST /v1/images/i-1/verify [] ", wire.Accepted{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.VerifyImage(ctx, "i-1") }},
	{"collect images", `{"dry_run":true,"waste":[{"id":"i-1","kept":"x"}]}`, "POST /v1/images/gc?dry_run=true [] ",
		wire.ImageWasteList{DryRun: true, Waste: []wire.ImageWaste{{ID: "i-1", Kept: "x"}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.CollectImages(ctx, true) }},
	{"share", `{"id":"i-1"}`, "POST /v1/capsules/" + id + "/share " + jsonBody + `{"name":"n","public":true}`, wire.Accepted{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ShareCapsule(ctx, id, wire.NewShare{Name: "n", Public: true})
		}},
	{"activate", `{"imageId":"i-1"}`, "PUT /activateimage " + form + "imageId=i-1", wire.ImageInfo{ImageID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.ActivateImage(ctx, "i-1") }},
	{"cancel", `{"id":"op-1"}`, "POST /v1/operations/op-1/cancel [] ", wire.Operation{ID: "op-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.CancelOperation(ctx, "op-1") }},
	{"operations", `{"operations":[]}`, "GET /v1/operations?limit=5&state=failed&target=x [] ",
		wire.OperationList{Operations: []wire.Operation{}},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Operations(ctx, client.OperationFilter{Target: "x", State: "failed", Limit: 5})
		}},
	{"all operations", `{"operations":[]}`, "GET /v1/operations [] ", wire.OperationList{Operations: []wire.Operation{}},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Operations(ctx, client.OperationFilter{})
		}},
	{"operation", `{"id":"op-1","state":"running"}`, "GET /v1/operations/op-1 [] ", wire.Operation{ID: "op-1", State: "running"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Operation(ctx, "op-1", 0) }},
	{"long poll", `{"id":"op-1"}`, "GET /v1/operations/op-1?wait=30 [] ", wire.Operation{ID: "op-1"},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Operation(ctx, "op-1", 30*time.Second)
		}},
	{"switch", "", "POST /switchvm " + form + "mode=secure&vmid=" + id, "op-1",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.SwitchCapsule(ctx, id, "secure", false)
		}},
	{"switch for review", "", "POST /switchvm " + form + "mode=secure&review=true&vmid=" + id, "op-1",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.SwitchCapsule(ctx, id, "secure", true)
		}},
	{"resume", `{"id":"` + id + `","operation":{"id":"op-2"}}`, "POST /v1/capsules/" + id + "/resume [] ", "op-1",
		func(ctx context.Context, c *client.Client) (any, error) { return c.ResumeCapsule(ctx, id) }},
	{"type", "", "PUT /v1/capsules/" + id + "/type " + jsonBody + `{"type":"DEMO"}`, nil,
		func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.SetCapsuleType(ctx, id, "DEMO")
		}},
	{"capsules", `{"status":[]}`, "GET /v1/capsules [] ", wire.StatusList{Status: []wire.Status{}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Capsules(ctx) }},
	{"capsule", `{"vmid":"` + id + `","mode":"SECURE"}`, "GET /v1/capsules/" + id + " [] ", wire.Status{VMID: id, Mode: "SECURE"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Capsule(ctx, id) }},
	{"proof", `{"proved":false,"checks":[{"promise":"P1","unknown":true}]}`, "GET /v1/capsules/" + id + "/proof [] ",
		wire.Proof{Checks: []wire.Check{{Promise: "P1", Unknown: true}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Proof(ctx, id) }},
	{"records", `{"records":[{"seq":3,"cut":2}]}`, "GET /v1/capsules/" + id + "/records [] ",
		wire.SwitchRecordList{Records: []wire.SwitchRecord{{Seq: 3, Cut: new(2)}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.SwitchRecords(ctx, id) }},
	{"policy", `{"kernel":["a"],"denied":{"packets":18446744073709551615}}`, "GET /v1/capsules/" + id + "/policy [] ",
		wire.PolicyView{Kernel: []string{"a"}, Denied: wire.Traffic{Packets: 1<<64 - 1}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.PolicyView(ctx, id) }},
	{"explain", `{"allowed":true,"line":12}`, "GET /v1/capsules/" + id + "/policy/explain?packet=tcp+to+192.0.2.1%3A443 [] ",
		wire.Explanation{Allowed: true, Line: 12},
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ExplainPacket(ctx, id, "tcp to 192.0.2.1:443")
		}},
	{"policies", `{"policies":[{"name":"secure"}]}`, "GET /v1/policies [] ", wire.PolicyList{Policies: []wire.Policy{{Name: "secure"}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Policies(ctx) }},
	{"reload policies", `{"policies":[]}`, "POST /v1/policies/reload [] ", wire.PolicyList{Policies: []wire.Policy{}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.ReloadPolicies(ctx) }},
	{"doctor", `{"findings":[{"name":"x","ok":true}]}`, "GET /v1/doctor [] ", wire.FindingList{Findings: []wire.Finding{{Name: "x", OK: true}}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Doctor(ctx) }},
	{"health", `{"status":"ok"}`, "GET /healthz [] ", wire.Health{Status: "ok"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Health(ctx) }},
	{"ready", `{"status":"ok"}`, "GET /readyz [] ", wire.Health{Status: "ok"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Ready(ctx) }},
}

func TestCalls(t *testing.T) {
	type want struct{ call, got any }
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			daemon := scripted(began(tt.reply))
			got, err := tt.invoke(t.Context(), serve(t, daemon))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want{[]string{tt.asked}, tt.got}, want{daemon.asked(), got}, cmp.AllowUnexported(want{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServerVersion(t *testing.T) {
	for header, want := range map[string]string{"capsuled/1.2": "1.2", "capsuled/1.2 (x)": "1.2", "nginx/1": "", "": ""} {
		c := serve(t, answer(200, `{"status":"ok"}`, "Server", header))
		if got, err := c.ServerVersion(t.Context()); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", header, got, err, want)
		}
	}
}
