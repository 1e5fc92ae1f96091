package api

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// reply is what a handler answers when nothing was refused. The zero reply is 200 with an empty body.
type reply struct {
	status    int    // 0 means 200
	body      any    // JSON; nil means none
	text      []byte // sent as it is, with contentType
	mediaType string
	header    http.Header      // added to the reply; may be nil
	location  string           // Location header, a path
	operation string           // id of the operation that the call began
	retry     string           // Retry-After, in seconds
	pass      http.HandlerFunc // answers in our stead
}

const jsonType = "application/json"

func (s *Server) answer(w http.ResponseWriter, r *http.Request, p reply) {
	if p.pass != nil {
		p.pass(w, r)
		return
	}
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	if p.location != "" {
		h.Set("Location", s.public+p.location)
	}
	if p.operation != "" {
		h.Set(wire.OperationHeader, s.public+"/v1/operations/"+p.operation)
	}
	if p.retry != "" {
		h.Set("Retry-After", p.retry)
	}
	status := p.status
	if status == 0 {
		status = http.StatusOK
	}
	if p.body != nil {
		writeJSON(w, status, p.body)
		return
	}
	if p.mediaType != "" {
		h.Set("Content-Type", p.mediaType)
	}
	h.Set("Content-Length", strconv.Itoa(len(p.text)))
	w.WriteHeader(status)
	_, _ = w.Write(p.text) // a caller that is gone needs no answer
}

// fail answers err in the dialect of the path, and logs what the caller is not told.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	d := envelopeOf(r.URL.Path)
	status, sent, header := d.classify(err, x.id)
	h := w.Header()
	for k, v := range header {
		h[k] = v
	}
	h.Set(wire.ErrorCodeHeader, string(sent.Code))
	if v := retryAfter[sent.Code]; v != "" {
		h.Set("Retry-After", v)
	}
	s.logFailure(r, status, sent.Code, err)
	if x.plain && status == http.StatusBadRequest {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(sent.Message)))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, sent.Message)
		return
	}
	writeJSON(w, status, d.body(status, sent.Code, sent.Message, x.id))
}

// logFailure logs what the caller is not told.
func (s *Server) logFailure(r *http.Request, status int, code daemon.Code, err error) {
	request := slog.String("request", exchangeOf(r).id)
	switch {
	case code == daemon.Unavailable && r.Context().Err() != nil: // the caller left: nobody's fault
	case status >= http.StatusInternalServerError:
		s.log.LogAttrs(r.Context(), slog.LevelError, "request failed", request, slog.String("code", string(code)), slog.Any("cause", err))
	case code == daemon.Unauthorized:
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "identity refused", request, slog.Any("cause", err))
	}
}

// writeJSON sends body as one document. Every body is a struct of package wire, which always marshals.
func writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // a programmer's error; the recovery answers 500
	}
	text = append(text, '\n')
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // a caller that is gone needs no answer
}
