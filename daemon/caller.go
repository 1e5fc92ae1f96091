package daemon

import (
	"log/slog"
	"slices"
)

// Caller is who asks: an identity that a codec has verified. The zero Caller may do nothing.
type Caller struct {
	GUID    string // the user; never empty for a verified caller
	Email   string
	Project string
	Roles   []string // from the token: "admin", "metrics", "peer"
	Local   bool     // came over the unix socket with trusted peer credentials; such a caller is an administrator
	From    string   // where from, for the audit record: an address, or "unix:uid=0"
	Request string   // request id

	self bool // the daemon acting on its own
}

// Roles that a token may carry.
const (
	RoleAdmin   = "admin"   // may act on everything
	RoleMetrics = "metrics" // may read /metrics
	RolePeer    = "peer"    // another host, by the name that is its guid: may say that it has an image
)

// HasRole reports whether the caller's token carries role; a local caller has every role.
func (c Caller) HasRole(role string) bool {
	return c.GUID != "" && (c.Local || slices.Contains(c.Roles, role))
}

// admin reports whether the caller may act on what others own.
func (c Caller) admin() bool { return c.HasRole(RoleAdmin) }

// itself is the daemon acting on its own: what it observed asks for it, and no role is in the way.
var itself = Caller{GUID: "daemon", Local: true, From: "daemon", self: true}

func logAttrs(c Caller, kind, target string, err error) []slog.Attr {
	return []slog.Attr{
		slog.String("kind", kind), slog.String("target", clip(target)), slog.String("guid", c.GUID),
		slog.String("from", c.From), slog.String("request", c.Request), slog.String("error", err.Error()),
	}
}

// levelOf says how loud a refusal is: only what the operator must look at is an error.
func levelOf(e *Error) slog.Level {
	if e.Code == Internal {
		return slog.LevelError
	}
	return slog.LevelInfo
}
