package synnefo

import (
	"net/http"
	"strconv"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// faultNames are the names of faults by status (images contract, section 5.5). A conflict is always about an image
// whose state does not allow the call.
var faultNames = map[int]string{
	http.StatusBadRequest:            "badRequest",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "itemNotFound",
	http.StatusMethodNotAllowed:      "notAllowed",
	http.StatusConflict:              "buildInProgress",
	http.StatusLengthRequired:        "lengthRequired",
	http.StatusRequestEntityTooLarge: "overLimit",
	http.StatusUnsupportedMediaType:  "badMediaType",
	http.StatusInternalServerError:   "internalServerError",
	http.StatusNotImplemented:        "notImplemented",
	http.StatusServiceUnavailable:    "serviceUnavailable",
}

// retryAfter is how many seconds a caller should wait before it asks again.
var retryAfter = map[daemon.Code]string{daemon.Busy: "1", daemon.Unavailable: "5"}

// Fault is a refusal in the shape of this version.
func (f *family) Fault(r *dialect.Request, no *dialect.Refusal) dialect.Reply {
	status := no.Status
	if status == 0 {
		status = f.status[no.Code]
	}
	if faultNames[status] == "" {
		status = f.status[daemon.Internal]
	}
	// A fault is strings and a number, so that it can always be written.
	p, _ := f.reply(r, status, fault{name: faultNames[status], code: status, message: no.Message})
	if seconds, ok := retryAfter[no.Code]; ok {
		p.Header.Set("Retry-After", seconds)
	}
	return p
}

// fault is why a request was refused.
type fault struct {
	name    string
	code    int
	message string
}

func (f fault) json(*version) any {
	return map[string]any{f.name: struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details string `json:"details"`
	}{f.code, f.message, ""}}
}

func (f fault) xml(m *markup) {
	m.open(f.name, "xmlns", computeNS, "code", strconv.Itoa(f.code))
	m.element("message", f.message)
	m.element("details", "")
	m.close(f.name)
}
