package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// Code classifies an error for every dialect of the API; each codec maps it to its own status.
type Code string

const (
	Invalid      Code = "invalid"      // the request fails validation
	Unauthorized Code = "unauthorized" // no identity, or a bad one
	Forbidden    Code = "forbidden"    // the identity may not do this
	NotFound     Code = "not_found"    // no such thing, or the caller may not know it
	Conflict     Code = "conflict"     // the state does not allow it, or a name is taken
	Gone         Code = "gone"         // it is on its way out, and nothing can be done with it any more
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

// ErrPurged is the cause of a Gone when only a tombstone is left of an image, DELETED: in some APIs it is not there any more,
// while one that is on its way out still is.
var ErrPurged = errors.New("only its tombstone is left")

// errorf makes an Error with a message for the caller.
func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// classes says what an error of a leaf means to a caller. A message of "" means that the leaf's own text is fit to be
// sent: it speaks of what the caller gave or of what the host lacks.
var classes = []struct {
	is      error
	code    Code
	message string
}{
	{imagestore.ErrUnsupported, Unsupported, ""}, // before ErrInvalid, which it comes with
	{imagestore.ErrDigest, Invalid, ""},
	{imagestore.ErrInvalid, Invalid, ""},
	{imagestore.ErrExhausted, Exhausted, ""},
	{imagestore.ErrConflict, Conflict, ""},
	{imagestore.ErrInUse, Busy, "somebody else holds it; try again"},
	{imagestore.ErrSource, Unavailable, ""}, // before the ends of contexts, which it may come with
	{imagestore.ErrCorrupt, Internal, ""},   // what was found is for who asked
	{domain.ErrExhausted, Exhausted, ""},
	{store.ErrFull, Exhausted, "the host's disk is full"},
	{domain.ErrUnsupported, Unsupported, ""},
	{domain.ErrBusy, Busy, "libvirt is busy with this domain; try again"},
	{domain.ErrUnusable, Internal, "the saved state of the capsule cannot be used: stop it, and it starts from its disk"},
	{domain.ErrAdrift, Internal, "libvirt was interrupted in the middle of a change; see the daemon's log"},
	{domain.ErrUnresponsive, Conflict, "the guest's agent does not answer"},
	{domain.ErrRefused, Conflict, "the guest's agent refuses"},
	{domain.ErrUnavailable, Unavailable, "libvirt does not answer; try again"},
	{firewall.ErrUnavailable, Unavailable, "the host's firewall does not answer; try again"},
	{context.DeadlineExceeded, Unavailable, "the host took too long; try again"},
	{context.Canceled, Unavailable, "the daemon is stopping; try again"},
	{store.ErrStale, Busy, "another request came first; look again"},
}

// classify turns any error into an *Error. What no row names is internal: a missing file of ours is not the caller's
// missing capsule.
func classify(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for _, c := range classes {
		if errors.Is(err, c.is) {
			if c.message == "" {
				return &Error{Code: c.code, Message: err.Error()}
			}
			return &Error{Code: c.code, Message: c.message, Err: err}
		}
	}
	return &Error{Code: Internal, Message: "internal error; the daemon's log says more", Err: err}
}
