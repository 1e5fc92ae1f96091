package api

import (
	"context"
	"net/http"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// The native calls about one capsule, its fence, and the host.

// maxPacket bounds the description of a packet: direction, protocol, and a host name of 253 characters with a port.
const maxPacket = 300

var (
	explainParams = params{{name: "packet", required: true, check: line(1, maxPacket)}}
	capsuleType   = oneOf(string(daemon.Demo), string(daemon.Research), string(daemon.ResearchFull))
)

func (s *Server) nativeCapsules(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.ListCapsules(r.Context(), c)
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.StatusList{Status: each(found, status)}}, nil
}

func (s *Server) nativeCapsule(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return about(r, c, noParams, func(ctx context.Context, c daemon.Caller, id string, _ fields) (wire.Status, error) {
		found, err := s.daemon.ShowCapsules(ctx, c, id)
		switch {
		case err != nil:
			return wire.Status{}, err
		case len(found) != 1:
			return wire.Status{}, noCapsule()
		}
		return status(found[0]), nil
	})
}

func (s *Server) resumeCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := capsuleID(r)
	if err != nil {
		return reply{}, err
	}
	if err := readNothing(w, r); err != nil {
		return reply{}, err
	}
	op, err := s.daemon.ResumeCapsule(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return accepted(id, op), nil
}

func (s *Server) setCapsuleType(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := capsuleID(r)
	if err != nil {
		return reply{}, err
	}
	var want wire.CapsuleType
	if err := readDocument(w, r, &want); err != nil {
		return reply{}, err
	}
	if _, err := capsuleType(want.Type); err != nil {
		return reply{}, invalid("type %v", err)
	}
	if err := s.daemon.SetCapsuleType(r.Context(), c, id, daemon.Type(want.Type)); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}

func (s *Server) proveCapsule(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return about(r, c, noParams, func(ctx context.Context, c daemon.Caller, id string, _ fields) (wire.Proof, error) {
		p, err := s.daemon.Prove(ctx, c, id)
		return proof(p), err
	})
}

func (s *Server) switchRecords(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return about(r, c, noParams, func(ctx context.Context, c daemon.Caller, id string, _ fields) (wire.SwitchRecordList, error) {
		found, err := s.daemon.SwitchRecords(ctx, c, id)
		return wire.SwitchRecordList{Records: each(found, switchRecord)}, err
	})
}

func (s *Server) showPolicy(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return about(r, c, noParams, func(ctx context.Context, c daemon.Caller, id string, _ fields) (wire.PolicyView, error) {
		v, err := s.daemon.ShowPolicy(ctx, c, id)
		return policyView(v), err
	})
}

func (s *Server) explainPacket(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return about(r, c, explainParams, func(ctx context.Context, c daemon.Caller, id string, f fields) (wire.Explanation, error) {
		e, err := s.daemon.ExplainPacket(ctx, c, id, f["packet"])
		return explanation(e), err
	})
}

func (s *Server) listPolicies(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.Policies(r.Context(), c)
	return policyList(found), err
}

func (s *Server) reloadPolicies(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if err := readNothing(w, r); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.ReloadPolicies(r.Context(), c)
	return policyList(found), err
}

func policyList(found []daemon.PolicyInfo) reply {
	return reply{body: wire.PolicyList{Policies: each(found, policy)}}
}

func (s *Server) doctor(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.Doctor(r.Context(), c)
	return reply{body: wire.FindingList{Findings: each(found, finding)}}, err
}

// about answers a question about the capsule of the path.
func about[W any](r *http.Request, c daemon.Caller, allowed params,
	ask func(context.Context, daemon.Caller, string, fields) (W, error)) (reply, error) {
	id, err := capsuleID(r)
	if err != nil {
		return reply{}, err
	}
	f, err := readQuery(r, allowed)
	if err != nil {
		return reply{}, err
	}
	body, err := ask(r.Context(), c, id, f)
	return reply{body: body}, err
}

// capsuleID is the {id} of the path in normal form. What cannot be one is not asked for.
func capsuleID(r *http.Request) (string, error) {
	id, err := canonicalUUID(r.PathValue("id"))
	if err != nil {
		return "", noCapsule()
	}
	return id, nil
}

func noCapsule() error { return &daemon.Error{Code: daemon.NotFound, Message: "no such capsule"} }

// readNothing refuses what comes with a call that takes neither parameters nor a body: who sends something expects
// something of it.
func readNothing(w http.ResponseWriter, r *http.Request) error {
	if _, err := readQuery(r, noParams); err != nil {
		return err
	}
	return readNoBody(w, r)
}

func readNoBody(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, jsonType)
	if err == nil && body != "" {
		return invalid("this call takes no body")
	}
	return err
}

// readDocument reads the JSON object of a body, and nothing beside it.
func readDocument(w http.ResponseWriter, r *http.Request, into any) error {
	if r.URL.RawQuery != "" {
		return invalid("parameters belong in the body, not in the query string")
	}
	body, err := readBody(w, r, jsonType)
	if err != nil {
		return err
	}
	return decodeJSON(body, into)
}
