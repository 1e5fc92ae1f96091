package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// exchange is what is known of one request and its reply, for the log and the metrics.
type exchange struct {
	id     string
	route  string
	quiet  bool
	plain  bool
	caller daemon.Caller
	end    func() // of the caller's share; nil before the caller is known
	peer   *peer
	fail   func(http.ResponseWriter, *http.Request, error) // answers in the dialect of the path
}

type exchangeKey struct{}

// exchangeOf returns what track put into the request's context.
func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// recorder notes what was sent.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// track is around every request: its id, the headers that every reply has, recovery from panics, log and metrics.
func (s *Server) track(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	x := &exchange{route: "unknown", peer: peerOf(r.Context()), fail: s.fail}
	x.id = requestID(r, x.peer)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	rec := &recorder{ResponseWriter: w}
	h := w.Header()
	h.Set("X-Request-Id", x.id)
	h.Set("Server", s.software)
	h.Set("Cache-Control", "no-store") // replies carry passwords
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && s.scarce(local.Network()) {
		h.Set("Connection", "close")
	}

	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	defer func() {
		cause := recover()
		if cause != nil && cause != http.ErrAbortHandler {
			s.log.LogAttrs(r.Context(), slog.LevelError, "request panicked", slog.String("request", x.id),
				slog.Any("cause", cause), slog.String("stack", string(debug.Stack())))
		}
		if cause != nil && rec.status == 0 {
			x.fail(rec, r, &daemon.Error{Code: daemon.Internal})
			cause = nil
		}
		s.record(r, x, rec, time.Since(began))
		if cause != nil {
			panic(http.ErrAbortHandler) // half a reply is out: cut the connection, so that nobody takes it for whole
		}
	}()
	defer func() {
		if x.end != nil {
			x.end()
		}
	}()
	s.serve(rec, r)
}

// enter identifies who asks, and counts the request as theirs until it is answered.
func (s *Server) enter(r *http.Request) error {
	x := exchangeOf(r)
	caller, err := s.identify(r)
	if err != nil {
		return err
	}
	x.caller = caller
	x.end, err = s.share.begin(caller)
	return err
}

// record logs the request and counts it. The escaped path is plain printable ASCII, whatever was asked for.
func (s *Server) record(r *http.Request, x *exchange, rec *recorder, took time.Duration) {
	s.metrics.observe(x.route, rec.status, took)
	level := slog.LevelInfo
	if x.quiet && rec.status < http.StatusBadRequest {
		level = slog.LevelDebug
	}
	const longest = 256
	shown := r.URL.EscapedPath()
	if len(shown) > longest {
		shown = shown[:longest] + "..."
	}
	s.log.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method),
		slog.String("path", shown),
		slog.Int("status", rec.status),
		slog.Duration("took", took),
		slog.Int("bytes", rec.bytes),
		slog.String("guid", x.caller.GUID),
		slog.String("from", origin(r, x.peer)),
		slog.String("request", x.id))
}

var requestIDPattern = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)

// requestID takes the caller's id from local administrators, and makes one for everybody else: ids lead through log
// and audit, so that strangers must not choose them.
func requestID(r *http.Request, p *peer) string {
	if given := r.Header.Values("X-Request-Id"); p != nil && p.admitted && len(given) == 1 && requestIDPattern.MatchString(given[0]) {
		return given[0]
	}
	return rand.Text()
}
