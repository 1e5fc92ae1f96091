package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/glance"
	"github.com/capsuled/capsuled/api/horizon"
	"github.com/capsuled/capsuled/api/nova"
	"github.com/capsuled/capsuled/api/synnefo"
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// newFamilies are the image dialects, each with the paths that it speaks for.
func newFamilies(opt Options, t *tokens) ([]dialect.Family, error) {
	identity, err := newKeystone(opt, t)
	if err != nil {
		return nil, err
	}
	return append(synnefo.New(synnefo.Options{Daemon: opt.Daemon, PollLimit: opt.PollLimit}),
		identity, nova.New(opt.Daemon), horizon.New(opt.Daemon), glance.New(opt.Daemon)), nil
}

// speak answers a request in the dialect of a family.
func (s *Server) speak(w http.ResponseWriter, r *http.Request, f dialect.Family) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	limit := time.AfterFunc(requestTime, func() { cancel(context.DeadlineExceeded) })
	defer limit.Stop()
	x := exchangeOf(r)
	req := &dialect.Request{Request: r.WithContext(ctx), ID: x.id, Base: s.base(r), Public: s.public}
	req.Body = http.MaxBytesReader(bare(w), r.Body, dialect.MaxBody)
	on := http.NewResponseController(w)
	back := func() bool { return true }
	defer func() { back() }()
	req.Patient = func() (context.Context, io.Reader) {
		limit.Stop()
		back = s.cutReading(on, func() { cancel(context.Canceled) })
		return ctx, &patientReader{body: r.Body, on: on, ended: ctx.Done()}
	}
	x.fail = func(w http.ResponseWriter, _ *http.Request, err error) {
		no := s.refusalOf(req.Request, err)
		p := f.Fault(req, no)
		p.Header = merged(no.Header, p.Header) // the dialect's own way of a header counts
		w.Header().Set(wire.ErrorCodeHeader, string(no.Code))
		s.logFailure(req.Request, p.Status, no.Code, err)
		s.send(w, req.Request, p)
	}
	defer req.Done()
	p, err := s.ask(req, f)
	if req.Route != "" {
		x.route = req.Route
	}
	if err != nil {
		x.fail(w, req.Request, err)
		return
	}
	s.send(w, req.Request, p)
}

// ask identifies the caller and has the family answer.
func (s *Server) ask(req *dialect.Request, f dialect.Family) (dialect.Reply, error) {
	if !f.Open(req.Method, req.URL.EscapedPath()) {
		if err := s.enter(req.Request); err != nil {
			return dialect.Reply{}, err
		}
		req.Caller = exchangeOf(req.Request).caller
	}
	return f.Serve(req)
}

// refusalOf turns any error into what is sent. What is internal says nothing but the id under which the log has it.
func (s *Server) refusalOf(r *http.Request, err error) *dialect.Refusal {
	no := &dialect.Refusal{Code: daemon.Internal}
	if f, ok := errors.AsType[*refusal](err); ok { // of identify
		no = &dialect.Refusal{Status: f.status, Code: f.cause.Code, Message: f.cause.Message, Header: f.header}
	} else if f, ok := errors.AsType[*dialect.Refusal](err); ok {
		no = f
	} else if e, ok := errors.AsType[*daemon.Error](err); ok {
		no = &dialect.Refusal{Code: e.Code, Message: e.Message}
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		no = &dialect.Refusal{Code: daemon.Unavailable, Message: "the request took too long; try again"}
	}
	if no.Code == daemon.Internal {
		no.Message = "internal error; the log has it under request " + exchangeOf(r).id
	}
	return no
}

// send writes a reply.
func (s *Server) send(w http.ResponseWriter, r *http.Request, p dialect.Reply) {
	h := w.Header()
	for k, v := range p.Header {
		h[k] = v
	}
	if p.MediaType != "" {
		h.Set("Content-Type", p.MediaType)
	}
	if p.Operation != "" {
		h.Set(wire.OperationHeader, s.public+"/v1/operations/"+p.Operation)
	}
	if p.Stream != nil {
		out, done := s.patient(w)
		defer done()
		p.Stream(out, r)
		return
	}
	status := p.Status
	if status == 0 {
		status = http.StatusOK
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(p.Body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(p.Body) // a caller that is gone needs no answer
}

func merged(a, b http.Header) http.Header {
	if a == nil {
		return b
	}
	for k, v := range b {
		a[k] = v
	}
	return a
}

// bare is net/http's own writer: http.MaxBytesReader must see it, or the answer is cut with the body.
func bare(w http.ResponseWriter) http.ResponseWriter {
	if rec, ok := w.(*recorder); ok {
		return rec.ResponseWriter
	}
	return w
}
