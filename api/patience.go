package api

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Bodies and replies that are files: no time bounds the whole, but they must not stand still.

// idle is how long a body that is a file may stand still, and slowest how many bytes must come of it in that time.
const (
	idle    = 30 * time.Second
	slowest = 16 << 10
)

// patientReader reads a body for as long as it comes at no less than slowest bytes in each span of idle: whoever sends a
// byte now and then must not keep a connection for ever.
type patientReader struct {
	body  io.Reader
	on    *http.ResponseController
	until time.Time       // end of the present span
	moved int64           // bytes in it
	ended <-chan struct{} // when nothing more may be read
}

// cutReading has a body that is a file read no further once the server shuts down, also by a read that waits: an upload goes
// on from where it was cut, so that nobody waits for it. cancel comes first, and ends what the reader looks at. The result
// takes this back.
func (s *Server) cutReading(on *http.ResponseController, cancel func()) (back func() bool) {
	return context.AfterFunc(s.closing, func() {
		cancel()
		_ = on.SetReadDeadline(past)
	})
}

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

func (p *patientReader) Read(b []byte) (int, error) {
	// A span that passed before this call was our own doing: we were slow to ask.
	if now := time.Now(); p.moved >= slowest || now.After(p.until) {
		p.until, p.moved = now.Add(idle), 0
		if err := p.on.SetReadDeadline(p.until); err != nil {
			return 0, err
		}
		// The server's own limit counts from the request's header, and the reply comes after all of the body.
		if err := p.on.SetWriteDeadline(p.until.Add(requestTime)); err != nil {
			return 0, err
		}
	}
	select { // after the deadline is set, or the one that cuts would be written over
	case <-p.ended:
		return 0, context.Canceled
	default:
	}
	n, err := p.body.Read(b)
	p.moved += int64(n)
	if err == io.EOF {
		// What is read from here on only notices that the caller leaves, and a deadline would be taken for that.
		_ = p.on.SetReadDeadline(time.Time{})
	}
	return n, err
}

// patientWriter writes a reply for as long as something is taken, and the server is not shutting down: what is missing can
// be asked for again.
type patientWriter struct {
	http.ResponseWriter
	on    *http.ResponseController
	ended <-chan struct{}
}

// patient is a writer that must be let go of.
func (s *Server) patient(w http.ResponseWriter) (_ *patientWriter, done func() bool) {
	on := http.NewResponseController(w)
	return &patientWriter{ResponseWriter: w, on: on, ended: s.closing.Done()},
		context.AfterFunc(s.closing, func() { _ = on.SetWriteDeadline(past) })
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.on.SetWriteDeadline(time.Now().Add(idle)); err != nil {
		return 0, err
	}
	select {
	case <-p.ended:
		return 0, context.Canceled
	default:
	}
	return p.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (p *patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }
