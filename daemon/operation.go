package daemon

import "time"

// OperationState says how an operation goes.
type OperationState string

const (
	OperationRunning   OperationState = "running"
	OperationSucceeded OperationState = "succeeded"
	OperationFailed    OperationState = "failed"
)

// Operation is one act on a capsule or an image, from its journalled intent to its end.
type Operation struct {
	ID       string
	Kind     string // "create", "launch", "stop", "delete", "image-add", "image-delete"
	Target   string // id of the capsule or image
	State    OperationState
	Step     string // the step under way, or the one that failed
	Steps    []Step
	Progress int // percent, 0..100
	Code     Code
	Cause    string // why it failed
	Actor    string // guid, or "daemon"
	Started  time.Time
	Ended    time.Time // zero while it runs
}

// Step is one idempotent part of an operation.
type Step struct {
	Name    string
	State   string // "pending", "running", "done", "failed", "undone"
	Seconds float64
}

// OperationFilter narrows a list; zero fields match everything.
type OperationFilter struct {
	Target string
	State  OperationState
	Limit  int // newest first; 0 means 100
}

// Readiness says whether the daemon serves, and if not, what it waits for.
type Readiness struct {
	Ready   bool
	Reasons []string // such as "libvirt: connection refused"
}
