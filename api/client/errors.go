package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// Codes of the daemon's error table, as they stand in Error.Code.
const (
	Invalid      = "invalid"
	Unauthorized = "unauthorized"
	Forbidden    = "forbidden"
	NotFound     = "not_found"
	Conflict     = "conflict"
	Gone         = "gone"
	Busy         = "busy"
	OverQuota    = "over_quota"
	Exhausted    = "exhausted"
	Unsupported  = "unsupported"
	Unavailable  = "unavailable"
	Internal     = "internal"
)

// known holds every code, so that a reply of another server cannot invent one.
var known = map[string]bool{
	Invalid: true, Unauthorized: true, Forbidden: true, NotFound: true, Conflict: true, Gone: true, Busy: true,
	OverQuota: true, Exhausted: true, Unsupported: true, Unavailable: true, Internal: true,
}

// byStatus classifies replies that carry no code, as those of a proxy in between. Others are Internal.
var byStatus = map[int]string{
	http.StatusBadRequest:                  Invalid,
	http.StatusUnauthorized:                Unauthorized,
	http.StatusForbidden:                   Forbidden,
	http.StatusNotFound:                    NotFound,
	http.StatusMethodNotAllowed:            Unsupported,
	http.StatusConflict:                    Conflict,
	http.StatusRequestEntityTooLarge:       Invalid,
	http.StatusRequestURITooLong:           Invalid,
	http.StatusUnsupportedMediaType:        Invalid,
	http.StatusRequestHeaderFieldsTooLarge: Invalid,
	http.StatusTooManyRequests:             Unavailable,
	http.StatusNotImplemented:              Unsupported,
	http.StatusBadGateway:                  Unavailable,
	http.StatusServiceUnavailable:          Unavailable,
	http.StatusGatewayTimeout:              Unavailable,
	http.StatusInsufficientStorage:         Exhausted,
}

// Error is a refusal by the daemon, in either dialect. Status is 0 when the client itself refused the call before
// it was sent. Message and RequestID come from the other side and are not escaped.
type Error struct {
	Status    int
	Code      string // one of the codes above, never empty
	Message   string
	RequestID string // what to look for in the daemon's log; may be empty
}

func (e *Error) Error() string {
	if e.RequestID == "" {
		return fmt.Sprintf("%s (%s)", e.Message, e.Code)
	}
	return fmt.Sprintf("%s (%s, request %s)", e.Message, e.Code, e.RequestID)
}

// Is reports whether err is an *Error with this code.
func Is(err error, code string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// decodeError makes an *Error of any reply that is not a success.
func decodeError(resp *http.Response, body []byte) *Error {
	var said struct {
		wire.Problem
		wire.Error
	}
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-Id")}
	// The two dialects share no member name, so one pass reads both. What is not JSON (a proxy's page) is not shown.
	if json.Unmarshal(body, &said) == nil {
		e.Message = said.Problem.Message
		if e.Message == "" {
			e.Message = said.Error.Description
		}
		if said.Problem.Request != "" {
			e.RequestID = said.Problem.Request
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("the daemon answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	for _, code := range []string{resp.Header.Get(wire.ErrorCodeHeader), said.Problem.Code, byStatus[resp.StatusCode], Internal} {
		if known[code] {
			e.Code = code
			break
		}
	}
	return e
}

// Unreachable says that no answer came: nobody listens, the way is barred, or time ran out. A call that changes
// something may still have taken effect when the time ran out. It unwraps to the cause.
type Unreachable struct {
	Target string // as Client.Target
	Hint   string // what to try; may be empty
	Err    error

	lasting bool // trying again is of no use
}

func (u *Unreachable) Error() string {
	s := fmt.Sprintf("cannot reach capsuled at %s: %v", u.Target, u.Err)
	if u.Hint != "" {
		s += ": " + u.Hint
	}
	return s
}

func (u *Unreachable) Unwrap() error { return u.Err }

// errNoAnswer is the cause when our own bound ended a call.
var errNoAnswer = errors.New("no answer")

// unreachable explains why a call got no answer. ctx is the caller's context: when that ended, its error is returned
// as it is, since nothing is wrong with the daemon.
func (c *Client) unreachable(ctx context.Context, took time.Duration, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	u := &Unreachable{Target: c.target, Err: cause(err)}
	_, unknownCA := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		u.Err = fmt.Errorf("%w within %s", errNoAnswer, took)
	case errors.Is(err, fs.ErrPermission):
		u.Hint, u.lasting = "only root and the members of its group may use the socket", true
	case unknownCA:
		u.Hint, u.lasting = "name the authority that signed it with a CA file", true
	case c.socket && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		u.Hint = "is it running? (systemctl status capsuled)"
	case errors.Is(err, syscall.ECONNREFUSED):
		u.Hint = "is it running there, and listening on this address?"
	}
	return u
}

// cause unwraps net/http's and net's framing, which repeats method, URL and address, down to the reason. It stops at
// certificate errors, whose inner text alone says less.
func cause(err error) error {
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return v.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the connection ended before an answer: %w", io.EOF)
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
