package api

import (
	"context"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// requestTime bounds a verb. Operations go on without their request, so that no verb is slow.
const requestTime = 30 * time.Second

// capsulePrefix is the servlet context of the original; every call of the capsule dialect is under it too.
const capsulePrefix = "/sloan-ws"

// route is one call. Its handler decodes, calls one verb, and encodes.
type route struct {
	method, path string
	open         bool          // needs no identity
	quiet        bool          // is polled by machines: a success is logged at debug level only
	poll         time.Duration // how long it may wait beyond requestTime
	handle       func(*Server, http.ResponseWriter, *http.Request, daemon.Caller) (reply, error)
}

var routes = []route{
	{method: "POST", path: "/createvm", handle: (*Server).createCapsule},
	{method: "POST", path: "/launchvm", handle: (*Server).launchCapsule},
	{method: "POST", path: "/show", handle: (*Server).showCapsules},
	{method: "POST", path: "/switchvm", handle: (*Server).switchCapsule},
	{method: "POST", path: "/stopvm", handle: (*Server).stopCapsule},
	{method: "POST", path: "/deletevm", handle: (*Server).deleteCapsule},
	{method: "GET", path: "/listvms", handle: (*Server).listCapsules},

	{method: "GET", path: "/healthz", open: true, quiet: true, handle: (*Server).health},
	{method: "GET", path: "/readyz", open: true, quiet: true, handle: (*Server).ready},
	{method: "GET", path: "/metrics", quiet: true, handle: (*Server).scrape},
	{method: "GET", path: "/v1/openapi.yaml", handle: (*Server).describe},
	{method: "GET", path: "/v1/capsules", handle: (*Server).nativeCapsules},
	{method: "GET", path: "/v1/capsules/{id}", handle: (*Server).nativeCapsule},
	{method: "POST", path: "/v1/capsules/{id}/resume", handle: (*Server).resumeCapsule},
	{method: "PUT", path: "/v1/capsules/{id}/type", handle: (*Server).setCapsuleType},
	{method: "GET", path: "/v1/capsules/{id}/proof", handle: (*Server).proveCapsule},
	{method: "GET", path: "/v1/capsules/{id}/records", handle: (*Server).switchRecords},
	{method: "GET", path: "/v1/capsules/{id}/policy", handle: (*Server).showPolicy},
	{method: "GET", path: "/v1/capsules/{id}/policy/explain", handle: (*Server).explainPacket},
	{method: "GET", path: "/v1/policies", handle: (*Server).listPolicies},
	{method: "POST", path: "/v1/policies/reload", handle: (*Server).reloadPolicies},
	{method: "GET", path: "/v1/doctor", handle: (*Server).doctor},
	{method: "GET", path: "/v1/operations", handle: (*Server).listOperations},
	{method: "GET", path: "/v1/operations/{id}", poll: maxWait * time.Second, handle: (*Server).showOperation},
	{method: "GET", path: "/v1/images", handle: (*Server).listImages},
	{method: "POST", path: "/v1/images", handle: (*Server).addImage},
	{method: "GET", path: "/v1/images/{id}", handle: (*Server).showImage},
	{method: "DELETE", path: "/v1/images/{id}", handle: (*Server).deleteImage},
}

// name is how metrics call the route: one name for both of its paths.
func (rt route) name() string { return rt.method + " " + rt.path }

// newMux registers every path once, and chooses by the method itself: ServeMux would answer 405 in a text of its own.
func (s *Server) newMux() *http.ServeMux {
	paths := map[string]map[string]route{}
	for _, rt := range routes {
		for _, p := range rt.paths() {
			if paths[p] == nil {
				paths[p] = map[string]route{}
			}
			paths[p][rt.method] = rt
		}
	}
	mux := http.NewServeMux()
	for p, methods := range paths {
		mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) { s.dispatch(w, r, methods) })
	}
	mux.HandleFunc("/", s.notFound)
	return mux
}

func (rt route) paths() []string {
	if envelopeOf(rt.path) == capsuleEnvelope {
		return []string{rt.path, capsulePrefix + rt.path}
	}
	return []string{rt.path}
}

// serve sends a request to its route. A path that is not in its shortest form is refused: ServeMux would redirect it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	for _, f := range s.families {
		if f.Speaks(r.URL.Path) {
			s.speak(w, r, f)
			return
		}
	}
	p := r.URL.EscapedPath()
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		s.notFound(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, refuse(http.StatusNotFound, daemon.NotFound, "no such path"))
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, methods map[string]route) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http sends no body
	}
	rt, ok := methods[method]
	if !ok {
		allowed := slices.Sorted(maps.Keys(methods))
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		f := refuse(http.StatusMethodNotAllowed, daemon.Invalid, "this path allows %s", strings.Join(allowed, ", "))
		f.header = http.Header{"Allow": {strings.Join(allowed, ", ")}}
		s.fail(w, r, f)
		return
	}
	x := exchangeOf(r)
	x.route, x.quiet = rt.name(), rt.quiet
	if !rt.open {
		caller, err := s.identify(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		x.caller = caller
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime+rt.poll)
	defer cancel()
	r = r.WithContext(ctx)
	answer, err := rt.handle(s, w, r, x.caller)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, answer)
}
