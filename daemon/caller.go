package daemon

import "slices"

// Caller is who asks: an identity that a codec has verified. The zero Caller may do nothing.
type Caller struct {
	GUID    string // the user; never empty for a verified caller
	Email   string
	Project string
	Roles   []string // from the token: "admin", "metrics"
	Local   bool     // came over the unix socket with trusted peer credentials; such a caller is an administrator
	From    string   // where from, for the audit record: an address, or "unix:uid=0"
	Request string   // request id
}

// Roles that a token may carry.
const (
	RoleAdmin   = "admin"   // may act on everything
	RoleMetrics = "metrics" // may read /metrics
)

// HasRole reports whether the caller's token carries role; a local caller has every role.
func (c Caller) HasRole(role string) bool {
	return c.GUID != "" && (c.Local || slices.Contains(c.Roles, role))
}

// admin reports whether the caller may act on what others own.
func (c Caller) admin() bool { return c.HasRole(RoleAdmin) }
