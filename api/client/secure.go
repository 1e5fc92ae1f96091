package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/capsuled/capsuled/api/wire"
)

// SwitchCapsule begins to take a running capsule to mode ("maintenance" or "secure") and returns the operation's id.
// review is for administrators: secure mode under the policy for review. Refused with Conflict when the capsule is in
// that mode already or does not run, and with Busy while an operation runs.
func (c *Client) SwitchCapsule(ctx context.Context, vmid, mode string, review bool) (operation string, err error) {
	if err := checkID("a capsule", vmid); err != nil {
		return "", err
	}
	form := url.Values{"vmid": {vmid}, "mode": {mode}}
	if review {
		form.Set("review", "true")
	}
	h, err := c.do(ctx, call{method: http.MethodPost, path: "/switchvm", form: form})
	if err != nil {
		return "", err
	}
	return operationID(h), nil
}

// ResumeCapsule begins to bring back a capsule that is held and returns the operation's id. Refusals are those of
// SwitchCapsule.
func (c *Client) ResumeCapsule(ctx context.Context, vmid string) (operation string, err error) {
	h, err := c.capsule(ctx, call{method: http.MethodPost, path: "/resume"}, vmid)
	if err != nil {
		return "", err
	}
	return operationID(h), nil
}

// SetCapsuleType changes what a capsule is for, and with it, at once, the policy that it is under, or
// neither. It is idempotent.
func (c *Client) SetCapsuleType(ctx context.Context, vmid, kind string) error {
	_, err := c.capsule(ctx, call{method: http.MethodPut, path: "/type", json: wire.CapsuleType{Type: kind}}, vmid)
	return err
}

// Capsules describes every capsule that the caller may know of: for an administrator, all of the host.
func (c *Client) Capsules(ctx context.Context) (wire.StatusList, error) {
	var list wire.StatusList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/capsules", out: &list})
	return list, err
}

// Capsule describes one capsule.
func (c *Client) Capsule(ctx context.Context, vmid string) (wire.Status, error) {
	var status wire.Status
	_, err := c.capsule(ctx, call{method: http.MethodGet, out: &status}, vmid)
	return status, err
}

// Proof has the daemon look at kernel and libvirt now. That something is not proved is no error.
func (c *Client) Proof(ctx context.Context, vmid string) (wire.Proof, error) {
	var proof wire.Proof
	_, err := c.capsule(ctx, call{method: http.MethodGet, path: "/proof", out: &proof}, vmid)
	return proof, err
}

// SwitchRecords are the records of a capsule's switches, newest first.
func (c *Client) SwitchRecords(ctx context.Context, vmid string) (wire.SwitchRecordList, error) {
	var list wire.SwitchRecordList
	_, err := c.capsule(ctx, call{method: http.MethodGet, path: "/records", out: &list}, vmid)
	return list, err
}

// PolicyView is what fences a capsule now.
func (c *Client) PolicyView(ctx context.Context, vmid string) (wire.PolicyView, error) {
	var view wire.PolicyView
	_, err := c.capsule(ctx, call{method: http.MethodGet, path: "/policy", out: &view}, vmid)
	return view, err
}

// ExplainPacket says what would become of a packet of a capsule, described as "tcp to 192.0.2.1:443".
func (c *Client) ExplainPacket(ctx context.Context, vmid, packet string) (wire.Explanation, error) {
	var e wire.Explanation
	_, err := c.capsule(ctx, call{method: http.MethodGet, path: "/policy/explain", query: url.Values{"packet": {packet}}, out: &e}, vmid)
	return e, err
}

// capsule makes a call about one capsule; its path is what follows the capsule's own.
func (c *Client) capsule(ctx context.Context, call call, vmid string) (http.Header, error) {
	if err := checkID("a capsule", vmid); err != nil {
		return nil, err
	}
	call.path = "/v1/capsules/" + vmid + call.path
	return c.do(ctx, call)
}

// Policies are the policies that are loaded.
func (c *Client) Policies(ctx context.Context) (wire.PolicyList, error) {
	var list wire.PolicyList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/policies", out: &list})
	return list, err
}

// ReloadPolicies has the daemon read the policy files again and put them in force, all or none. Faults in a file are
// refused as Invalid, with the lines in the message.
func (c *Client) ReloadPolicies(ctx context.Context) (wire.PolicyList, error) {
	var list wire.PolicyList
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/policies/reload", out: &list})
	return list, err
}

// Doctor has the daemon look for what makes the host unfit. What it finds is no error.
func (c *Client) Doctor(ctx context.Context) (wire.FindingList, error) {
	var list wire.FindingList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/doctor", out: &list})
	return list, err
}
