package api

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/capsuled/capsuled/daemon"
)

// identify says who asks. On TCP that is who the token says; over the unix socket who the kernel says, if it is root or
// one of the administrators' groups, unless a token is presented: a token is what the caller wants to be known by, and
// whatever relays somebody's token over the socket must not lend them its own rights.
func (s *Server) identify(r *http.Request) (daemon.Caller, error) {
	p := peerOf(r.Context())
	if p != nil && !p.admitted {
		f := refuse(http.StatusForbidden, daemon.Forbidden, "this socket is for root and the administrators' group")
		f.cause.Err = p.err
		return daemon.Caller{}, f
	}
	token, err := bearer(r.Header)
	if err != nil {
		return daemon.Caller{}, err
	}
	c := daemon.Caller{}
	switch {
	case token != "":
		if c, err = s.tokens.verify(token); err != nil {
			return daemon.Caller{}, err
		}
		c.From = origin(r, p)
	case p != nil && relayed(r.Header):
		return daemon.Caller{}, unauthorized(nil, "a request relayed from elsewhere needs a token of its own")
	case p != nil:
		c = p.caller
	default:
		return daemon.Caller{}, unauthorized(nil, "no identity: a token is needed, as Authorization: Bearer or X-Auth-Token")
	}
	c.Request = exchangeOf(r).id
	return c, nil
}

// bearer returns the request's token, "" when there is none. Two that differ are refused: the one that a proxy checked
// might not be the one that is used here.
func bearer(h http.Header) (string, error) {
	given := h.Values("X-Auth-Token")
	for _, v := range h.Values("Authorization") {
		scheme, token, ok := strings.Cut(v, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return "", unauthorized(nil, "Authorization must be of the form: Bearer TOKEN")
		}
		given = append(given[:len(given):len(given)], strings.TrimSpace(token))
	}
	for _, t := range given {
		switch {
		case t == "":
			return "", unauthorized(nil, "the token is empty")
		case t != given[0]:
			return "", unauthorized(nil, "two tokens are given, and they differ")
		}
	}
	if len(given) == 0 {
		return "", nil
	}
	return given[0], nil
}

// relayed reports whether a proxy says that it passes on somebody else's request. Over the unix socket it would
// otherwise act as whoever runs the proxy.
func relayed(h http.Header) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via", "Htrc-Remote-User"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	return false
}

// origin is where a request came from: the address without the port, or the unix peer.
func origin(r *http.Request, p *peer) string {
	if p != nil {
		return p.from
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func unauthorized(cause error, format string, args ...any) error {
	return &refusal{
		status: http.StatusUnauthorized,
		header: http.Header{"Www-Authenticate": {`Bearer realm="capsuled"`}},
		cause:  &daemon.Error{Code: daemon.Unauthorized, Message: fmt.Sprintf(format, args...), Err: cause},
	}
}
