package dialect

import (
	"context"
	"io"
	"net/http"
	"sync"

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
	Base   string        // what links begin with: Public, or "scheme://host" as the caller reached this server
	Public string        // the operator's word for that; "" when there is none, and links that may be paths are paths
	Route  string        // set by the family: how metrics call it, such as "GET /v2.1/images/{id}"; never of a caller's making

	// Patient lifts the limits of time for a body that is a file. What it returns fails when nothing moves for half a
	// minute, and the context ends with the caller's connection alone.
	Patient func() (context.Context, io.Reader)

	buffer *[]byte // of buffers; nil until it is asked for
}

// buffers hold a page of a hundred images with their metadata, so that a list needs no memory of its own.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 128<<10); return &b }}

// Buffer is an empty slice to append the reply's body to. It is the request's until Done, and may be outgrown.
func (r *Request) Buffer() []byte {
	if r.buffer == nil {
		r.buffer = buffers.Get().(*[]byte)
	}
	return *r.buffer
}

// Done says that the reply is sent, and that nobody looks at what was appended to Buffer any more.
func (r *Request) Done() {
	if r.buffer != nil {
		buffers.Put(r.buffer)
		r.buffer = nil
	}
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
