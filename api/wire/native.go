package wire

import "time"

// Problem is the body of every refused call of the native API (/v1). Code is one of: invalid, unauthorized,
// forbidden, not_found, conflict, gone, busy, over_quota, exhausted, unsupported, unavailable, internal.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Request string `json:"request_id"`
}

// Accepted answers a native call that began an operation (202).
type Accepted struct {
	ID        string    `json:"id"` // of the image or the capsule
	Operation Operation `json:"operation"`
}

// Operation is one act on a capsule or an image.
type Operation struct {
	ID       string     `json:"id"`
	Kind     string     `json:"kind"`
	Target   string     `json:"target"`
	State    string     `json:"state"` // running, succeeded, failed
	Step     string     `json:"step"`
	Steps    []Step     `json:"steps"`
	Progress int        `json:"progress"` // percent
	Code     string     `json:"code,omitempty"`
	Cause    string     `json:"cause,omitempty"`
	Actor    string     `json:"actor"`
	Started  time.Time  `json:"started"`
	Ended    *time.Time `json:"ended"` // null while it runs
}

// Step is one idempotent part of an operation.
type Step struct {
	Name    string  `json:"name"`
	State   string  `json:"state"` // pending, running, done, failed, undone
	Seconds float64 `json:"seconds"`
	Note    string  `json:"note,omitempty"` // what it found, such as how many connections it cut
}

// OperationList answers GET /v1/operations, newest first.
type OperationList struct {
	Operations []Operation `json:"operations"`
}

// Health answers GET /healthz and GET /readyz.
type Health struct {
	Status  string   `json:"status"` // "ok", or "waiting"
	Reasons []string `json:"reasons,omitempty"`
}

// OperationHeader is set on every reply that began an operation: the path of the operation, after the host's
// public URL if it has one.
const OperationHeader = "Operation-Location"

// ErrorCodeHeader is set on every error reply of both dialects: one of the codes of Problem. The capsule dialect
// answers 400 for most refusals, so its status alone does not tell a client what went wrong.
const ErrorCodeHeader = "X-Error-Code"
