package client

import (
	"context"
	"net/http"
	"strings"

	"github.com/capsuled/capsuled/api/wire"
)

// Health asks whether the daemon lives. It needs no identity.
func (c *Client) Health(ctx context.Context) (wire.Health, error) {
	var health wire.Health
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/healthz", out: &health})
	return health, err
}

// Ready asks whether the daemon serves; if not, Status is not "ok" and Reasons say what it waits for, without an
// error. It needs no identity.
func (c *Client) Ready(ctx context.Context) (wire.Health, error) {
	var health wire.Health
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/readyz", also: http.StatusServiceUnavailable, out: &health})
	if err == nil && health.Status == "" { // JSON, but of something else
		return health, &Error{Code: Unavailable, Message: "the daemon does not say whether it is ready"}
	}
	return health, err
}

// ServerVersion asks for the daemon's version: what stands behind "capsuled/" in its Server header, or "" when it
// does not say. It needs no identity.
func (c *Client) ServerVersion(ctx context.Context) (string, error) {
	var health wire.Health
	h, err := c.do(ctx, call{method: http.MethodGet, path: "/healthz", out: &health})
	if err != nil {
		return "", err
	}
	product, _, _ := strings.Cut(h.Get("Server"), " ")
	version, found := strings.CutPrefix(product, "capsuled/")
	if !found {
		return "", nil
	}
	return version, nil
}
