package daemon

import (
	"fmt"
)

// Code classifies an error for every dialect of the API; each codec maps it to its own status.
type Code string

const (
	Invalid      Code = "invalid"      // the request fails validation
	Unauthorized Code = "unauthorized" // no identity, or a bad one
	Forbidden    Code = "forbidden"    // the identity may not do this
	NotFound     Code = "not_found"    // no such thing, or the caller may not know it
	Conflict     Code = "conflict"     // the state does not allow it, or a name is taken
	Busy         Code = "busy"         // another operation holds it; try again
	OverQuota    Code = "over_quota"   // the caller's quota does not allow it
	Exhausted    Code = "exhausted"    // the host has no port, address, memory or disk left
	Unsupported  Code = "unsupported"  // this host cannot do it
	Unavailable  Code = "unavailable"  // libvirt or the store is away; try again
	Internal     Code = "internal"     // everything else; the text stays in the log
)

// Error is what every verb of the daemon returns: a class, a sentence for the caller, and the cause.
// Message is safe to send; Err is for the log.
type Error struct {
	Code    Code
	Message string
	Err     error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return fmt.Sprintf("%s: %v", e.Message, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// errorf makes an Error with a message for the caller. A %w argument becomes the cause.
func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
