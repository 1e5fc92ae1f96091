package dialect

import (
	"context"
	"io"
	"net/http"

	"github.com/capsuled/capsuled/daemon"
)

// Family is the codec of one family of paths. Its methods may be called at the same time.
type Family interface {
	// Speaks says whether a path is this family's, as it was sent: not decoded. No path is two families'.
	Speaks(path string) bool
	// Open says whether a request needs no identity: a version document. The path is not decoded.
	Open(method, path string) bool
	// Serve answers a request, or says why not with a [*Refusal] or a *daemon.Error; any other error is internal.
	Serve(*Request) (Reply, error)
	// Fault is a refusal in the family's shape, with the status that its own table has for the code, unless the
	// refusal names one.
	Fault(*Request, *Refusal) Reply
}

// Request is one request to a family.
type Request struct {
	*http.Request
	ID     string        // of the request, for logs and replies
	Caller daemon.Caller // zero where the path is open and nobody was identified
	Base   string        // "scheme://host", as the caller reached this server
	Route  string        // set by the family: how metrics call it, such as "GET /v2.1/images/{id}"; never of a caller's making

	// Patient lifts the limits of time for a body that is a file. What it returns fails when nothing moves for half a
	// minute, and the context ends with the caller's connection alone.
	Patient func() (context.Context, io.Reader)
}

// Reply is what a family answers. The zero reply is 200 without a body.
type Reply struct {
	Status    int // 0 means 200
	Header    http.Header
	MediaType string // of Body
	Body      []byte
	Operation string // id of the operation that the call began
	// Stream answers in Body's stead, with Status unsent; for files. Its writer fails when nothing moves for half a minute.
	Stream func(http.ResponseWriter, *http.Request)
}

// Refusal is a request that is refused, before any family's table or with it.
type Refusal struct {
	Status  int // 0 means what the family's table has for Code
	Code    daemon.Code
	Message string      // for the caller
	Header  http.Header // added to the reply; may be nil
	Err     error       // for the log
}

func (r *Refusal) Error() string {
	if r.Err != nil {
		return r.Message + ": " + r.Err.Error()
	}
	return r.Message
}

// Unwrap makes the cause seen.
func (r *Refusal) Unwrap() error { return r.Err }
