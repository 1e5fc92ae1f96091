package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/capsuled/capsuled/api/wire"
)

// NewCapsule is what CreateCapsule asks for. Zero values and nils are not sent: the daemon's defaults hold.
type NewCapsule struct {
	ImageID       string
	LoginUser     string // console login name
	LoginPassword string // console password, 1..8 printable ASCII characters
	MemoryMB      int
	VCPUs         int
	Type          string // DEMO, RESEARCH or RESEARCH-FULL
	Consent       *bool
	FullAccess    *bool

	Title           string
	DescNature      string
	DescRequirement string
	DescLinks       string
	DescOutsideData string
	RRDataFiles     string
	RRResultUsage   string
}

func (n NewCapsule) form() url.Values {
	form := url.Values{}
	for _, p := range []struct{ name, value string }{
		{"imageid", n.ImageID}, {"loginusername", n.LoginUser}, {"loginpassword", n.LoginPassword},
		{"memory", number(n.MemoryMB)}, {"vcpu", number(n.VCPUs)}, {"type", n.Type},
		{"consent", boolean(n.Consent)}, {"full_access", boolean(n.FullAccess)},
		{"title", n.Title}, {"desc_nature", n.DescNature}, {"desc_requirement", n.DescRequirement},
		{"desc_links", n.DescLinks}, {"desc_outside_data", n.DescOutsideData},
		{"rr_data_files", n.RRDataFiles}, {"rr_result_usage", n.RRResultUsage},
	} {
		if p.value != "" {
			form.Set(p.name, p.value)
		}
	}
	return form
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func boolean(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

// CreateCapsule asks for a capsule. It returns the new capsule's id and the id of the operation that makes it, which
// goes on after the call. It is not idempotent: each success is another capsule.
func (c *Client) CreateCapsule(ctx context.Context, n NewCapsule) (vmid, operation string, err error) {
	var created wire.Created
	h, err := c.do(ctx, call{method: http.MethodPost, path: "/createvm", form: n.form(), out: &created})
	if err != nil {
		return "", "", err
	}
	if err := checkID("a capsule", created.VMID); err != nil {
		return "", "", err
	}
	return created.VMID, operationID(h), nil
}

// LaunchCapsule begins to start a capsule that is SHUTDOWN and returns the operation's id. In another state it is
// refused with Conflict, or Busy while an operation runs.
func (c *Client) LaunchCapsule(ctx context.Context, vmid string) (operation string, err error) {
	return c.act(ctx, "/launchvm", vmid)
}

// StopCapsule begins to stop a capsule and returns the operation's id. Refusals are those of LaunchCapsule.
func (c *Client) StopCapsule(ctx context.Context, vmid string) (operation string, err error) {
	return c.act(ctx, "/stopvm", vmid)
}

// DeleteCapsule begins to destroy a capsule and all it owns and returns the operation's id. The capsule is gone from
// every list at once; a second call is refused with NotFound.
func (c *Client) DeleteCapsule(ctx context.Context, vmid string) (operation string, err error) {
	return c.act(ctx, "/deletevm", vmid)
}

func (c *Client) act(ctx context.Context, path, vmid string) (string, error) {
	if err := checkID("a capsule", vmid); err != nil {
		return "", err
	}
	h, err := c.do(ctx, call{method: http.MethodPost, path: path, form: url.Values{"vmid": {vmid}}})
	if err != nil {
		return "", err
	}
	return operationID(h), nil
}

// ShowCapsules describes one capsule, or with vmid "" all that the caller has a role in; the list may be empty.
func (c *Client) ShowCapsules(ctx context.Context, vmid string) (wire.StatusList, error) {
	form := url.Values{}
	if vmid != "" {
		if err := checkID("a capsule", vmid); err != nil {
			return wire.StatusList{}, err
		}
		form.Set("vmid", vmid)
	}
	var list wire.StatusList
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/show", form: form, out: &list})
	return list, err
}

// ListCapsules lists the capsules of the host that the caller may know: for an administrator, all of them.
func (c *Client) ListCapsules(ctx context.Context) (wire.VMList, error) {
	var list wire.VMList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/listvms", out: &list})
	return list, err
}
