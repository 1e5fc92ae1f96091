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
		func(ctx context.Context, c *client.Client) (any, error) { return c.Images(ctx) }},
	{"image", `{"id":"i-1"}`, "GET /v1/images/i-1 [] ", wire.Image{ID: "i-1"},
		func(ctx context.Context, c *client.Client) (any, error) { return c.Image(ctx, "i-1") }},
	{"delete image", `{"id":"i-1","operation":{"id":"op-1"}}`, "DELETE /v1/images/i-1 [] ",
		wire.Accepted{ID: "i-1", Operation: wire.Operation{ID: "op-1"}},
		func(ctx context.Context, c *client.Client) (any, error) { return c.DeleteImage(ctx, "i-1") }},
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
