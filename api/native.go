package api

import (
	"context"
	_ "embed"
	"net/http"
	"regexp"
	"time"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// maxWait is the longest long poll, in seconds. The server's write timeout is longer.
const maxWait = 60

//go:embed openapi.yaml
var openAPI []byte

var (
	operationsParams = params{
		{name: "target", check: matching(`[A-Za-z0-9-]{1,64}`, "the id of a capsule or an image")},
		{name: "state", check: oneOf(string(daemon.OperationRunning), string(daemon.OperationSucceeded), string(daemon.OperationFailed))},
		{name: "limit", check: number(1, 1000)},
	}
	operationParams = params{{name: "wait", check: number(0, maxWait)}}
	idPattern       = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,128}\z`)
)

func (s *Server) health(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	return reply{body: wire.Health{Status: "ok"}}, nil
}

func (s *Server) ready(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	r := s.daemon.Ready()
	if r.Ready {
		return reply{body: wire.Health{Status: "ok"}}, nil
	}
	return reply{
		status: http.StatusServiceUnavailable,
		retry:  retryAfter[daemon.Unavailable],
		body:   wire.Health{Status: "waiting", Reasons: r.Reasons},
	}, nil
}

func (s *Server) scrape(_ http.ResponseWriter, _ *http.Request, c daemon.Caller) (reply, error) {
	if !c.HasRole(daemon.RoleMetrics) {
		return reply{}, &daemon.Error{Code: daemon.Forbidden, Message: "metrics need the role " + daemon.RoleMetrics}
	}
	return reply{pass: s.scraped.ServeHTTP}, nil
}

func (s *Server) describe(http.ResponseWriter, *http.Request, daemon.Caller) (reply, error) {
	return reply{text: openAPI, mediaType: "application/yaml"}, nil
}

func (s *Server) listOperations(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, operationsParams)
	if err != nil {
		return reply{}, err
	}
	found, err := s.daemon.Operations(r.Context(), c, daemon.OperationFilter{
		Target: f["target"],
		State:  daemon.OperationState(f["state"]),
		Limit:  f.number("limit"),
	})
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.OperationList{Operations: each(found, operation)}}, nil
}

func (s *Server) showOperation(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "operation")
	if err != nil {
		return reply{}, err
	}
	f, err := readQuery(r, operationParams)
	if err != nil {
		return reply{}, err
	}
	op, err := s.operation(r.Context(), c, id, time.Duration(f.number("wait"))*time.Second)
	if err != nil {
		return reply{}, err
	}
	return reply{body: operation(op)}, nil
}

// operation returns the operation as soon as it has ended, after wait, or when the server shuts down.
func (s *Server) operation(ctx context.Context, c daemon.Caller, id string, wait time.Duration) (daemon.Operation, error) {
	if wait == 0 {
		return s.daemon.Operation(ctx, c, id)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	return s.daemon.WaitOperation(ctx, c, id)
}

func (s *Server) cancelOperation(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "operation")
	if err != nil {
		return reply{}, err
	}
	if err := readNothing(w, r); err != nil {
		return reply{}, err
	}
	op, err := s.daemon.CancelOperation(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, operation: op.ID, body: operation(op)}, nil
}

func accepted(id string, op daemon.Operation) reply {
	return reply{status: http.StatusAccepted, operation: op.ID, body: wire.Accepted{ID: id, Operation: operation(op)}}
}

// pathID is the {id} of the path. What cannot be an id is not asked for.
func pathID(r *http.Request, noun string) (string, error) {
	id := r.PathValue("id")
	if !idPattern.MatchString(id) {
		return "", &daemon.Error{Code: daemon.NotFound, Message: "no such " + noun}
	}
	return id, nil
}
