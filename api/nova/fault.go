package nova

import (
	"crypto/sha256"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

const (
	mediaType      = "application/json"
	faultMediaType = "application/json; charset=UTF-8"
)

// statuses of what the daemon says; Gone and OverQuota have their own in the variant.
var statuses = map[daemon.Code]int{
	daemon.Invalid:      http.StatusBadRequest,
	daemon.Unauthorized: http.StatusUnauthorized,
	daemon.Forbidden:    http.StatusForbidden,
	daemon.NotFound:     http.StatusNotFound,
	daemon.Conflict:     http.StatusConflict,
	daemon.Gone:         http.StatusNotFound,
	daemon.Busy:         http.StatusConflict,
	daemon.Exhausted:    http.StatusServiceUnavailable,
	daemon.Unsupported:  http.StatusNotImplemented,
	daemon.Unavailable:  http.StatusServiceUnavailable,
	daemon.Internal:     http.StatusInternalServerError,
}

// faults are the names of statuses; what is not here is a computeFault (images contract, section 4.6).
var faults = map[int]string{
	http.StatusBadRequest:            "badRequest",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "itemNotFound",
	http.StatusMethodNotAllowed:      "badMethod",
	http.StatusConflict:              "conflictingRequest",
	http.StatusRequestEntityTooLarge: "overLimit",
	http.StatusUnsupportedMediaType:  "badMediaType",
	http.StatusTooManyRequests:       "overLimit",
	http.StatusNotImplemented:        "notImplemented",
	http.StatusServiceUnavailable:    "serviceUnavailable",
}

// retries is how many seconds a caller should wait before it asks again.
var retries = map[daemon.Code]string{daemon.Busy: "1", daemon.Unavailable: "5"}

// Fault is a refusal in Nova's shape: one member, named after the status.
func (f *Family) Fault(req *dialect.Request, no *dialect.Refusal) dialect.Reply {
	v := v21
	m := mountOf(req.URL.Path)
	if m != nil {
		v = m.variant
	}
	status := no.Status
	if status == 0 {
		status = statuses[no.Code]
	}
	retry := retries[no.Code]
	if no.Code == daemon.OverQuota && no.Status == 0 {
		status, retry = v.tooMany, v.retryTooMany
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	h := m.headers(req)
	if retry != "" {
		h.Set("Retry-After", retry)
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Keystone uri="+strconv.Quote(req.Base+"/identity"))
	}
	message := no.Message
	// Without the word, clients take a 413 for a limit of rate, and try again (images contract, section 4.3).
	if status == http.StatusRequestEntityTooLarge && !strings.Contains(message, "exceeded") {
		message += " (limit exceeded)"
	}
	return dialect.Reply{Status: status, Header: h, MediaType: faultMediaType, Body: appendFault(nil, status, message, retry)}
}

func appendFault(b []byte, status int, message, retry string) []byte {
	name := faults[status]
	if name == "" {
		name = "computeFault"
	}
	b = append(b, `{"`+name+`":{"code":`...)
	b = appendInt(b, int64(status))
	b = append(b, `,"message":`...)
	b = appendString(b, message)
	if retry != "" && name == "overLimit" {
		b = append(b, `,"retryAfter":`...)
		b = appendString(b, retry)
	}
	return append(b, `}}`...)
}

// headers are those of every reply below a mount, faults among them; m may be nil, for "/".
func (m *mount) headers(req *dialect.Request) http.Header {
	id := requestID(req.ID)
	h := http.Header{"X-Compute-Request-Id": {id}, "X-Openstack-Request-Id": {id}}
	if m == nil || !m.microversions {
		return h
	}
	h.Set("Vary", versionHeader+", "+legacyHeader)
	if minor, err := m.minor(req.Header); err == nil {
		h.Set(versionHeader, "compute "+versionText(minor))
		h.Set(legacyHeader, versionText(minor))
	}
	return h
}

// requestID is the request's id in the form that Nova's have. It follows from the id in the log.
func requestID(id string) string {
	sum := sha256.Sum256([]byte(id))
	u := uuid.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // version 4 (RFC 9562, section 5.4)
	return "req-" + u.String()
}
