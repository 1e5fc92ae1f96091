package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// envelope is how one family of paths speaks of errors: the status of each code, and the body.
type envelope struct {
	name   string
	status map[daemon.Code]int
	body   func(status int, code daemon.Code, message, request string) any
}

// capsuleEnvelope answers 400 for nearly everything that the caller could put right, as the contract has it. Not the
// contract's: 401 where no identity is given (it said 500), 503 while the daemon waits for libvirt or its store.
var capsuleEnvelope = &envelope{
	name: "capsule",
	status: map[daemon.Code]int{
		daemon.Invalid:      http.StatusBadRequest,
		daemon.Unauthorized: http.StatusUnauthorized,
		daemon.Forbidden:    http.StatusBadRequest,
		daemon.NotFound:     http.StatusBadRequest,
		daemon.Conflict:     http.StatusBadRequest,
		daemon.Gone:         http.StatusBadRequest,
		daemon.Busy:         http.StatusBadRequest,
		daemon.OverQuota:    http.StatusBadRequest,
		daemon.Exhausted:    http.StatusInternalServerError,
		daemon.Unsupported:  http.StatusNotImplemented,
		daemon.Unavailable:  http.StatusServiceUnavailable,
		daemon.Internal:     http.StatusInternalServerError,
	},
	body: func(status int, _ daemon.Code, message, _ string) any {
		return wire.Error{StatusCode: status, Description: message}
	},
}

var nativeEnvelope = &envelope{
	name: "native",
	status: map[daemon.Code]int{
		daemon.Invalid:      http.StatusBadRequest,
		daemon.Unauthorized: http.StatusUnauthorized,
		daemon.Forbidden:    http.StatusForbidden,
		daemon.NotFound:     http.StatusNotFound,
		daemon.Conflict:     http.StatusConflict,
		daemon.Gone:         http.StatusConflict,
		daemon.Busy:         http.StatusConflict,
		daemon.OverQuota:    http.StatusForbidden,
		daemon.Exhausted:    http.StatusInsufficientStorage,
		daemon.Unsupported:  http.StatusNotImplemented,
		daemon.Unavailable:  http.StatusServiceUnavailable,
		daemon.Internal:     http.StatusInternalServerError,
	},
	body: func(_ int, code daemon.Code, message, request string) any {
		return wire.Problem{Code: string(code), Message: message, Request: request}
	},
}

// retryAfter is how many seconds a caller should wait before it asks again.
var retryAfter = map[daemon.Code]string{
	daemon.Busy:        "1",
	daemon.Unavailable: "5",
}

// envelopeOf chooses by the path alone, so that no header can change how a request is read.
func envelopeOf(path string) *envelope {
	switch {
	case path == "/v1", strings.HasPrefix(path, "/v1/"), path == "/healthz", path == "/readyz", path == "/metrics":
		return nativeEnvelope
	}
	return capsuleEnvelope
}

// refusal is an error with a status of its own: what HTTP itself refuses (404, 405, 413, 415), before any dialect's
// table, and identity, which both dialects refuse alike.
type refusal struct {
	status int
	header http.Header // added to the reply; may be nil
	cause  *daemon.Error
}

func (r *refusal) Error() string { return r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(status int, code daemon.Code, format string, args ...any) *refusal {
	return &refusal{status: status, cause: &daemon.Error{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func invalid(format string, args ...any) *daemon.Error {
	return &daemon.Error{Code: daemon.Invalid, Message: fmt.Sprintf(format, args...)}
}

// classify turns any error of a handler into what is sent. What is no *daemon.Error, or is internal, says nothing but
// the id under which the log has it.
func (d *envelope) classify(err error, request string) (status int, sent *daemon.Error, header http.Header) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status, r.cause, r.header
	}
	sent, ok := errors.AsType[*daemon.Error](err)
	if !ok && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		sent, ok = &daemon.Error{Code: daemon.Unavailable, Message: "the request took too long; try again"}, true
	}
	if ok {
		status = d.status[sent.Code]
	}
	if status == 0 || sent.Code == daemon.Internal {
		sent = &daemon.Error{Code: daemon.Internal, Message: "internal error; the log has it under request " + request}
		status = d.status[daemon.Internal]
	}
	return status, sent, nil
}
