package api

import (
	"context"
	"io"
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
	stream       bool          // its body, or its reply, is a file: no time bounds it while bytes move
	plain        bool          // answers 400 with the bare message (capsule contract, section 4.1: T)
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

	{method: "POST", path: "/shareimage", handle: (*Server).shareImage},
	{method: "PUT", path: "/shareimage", handle: (*Server).describeImage},
	{method: "PUT", path: "/activateimage", handle: (*Server).activateImage},
	{method: "GET", path: "/checkimagename", plain: true, handle: (*Server).checkImageName},
	{method: "GET", path: "/listallimages", handle: (*Server).listAllImages},
	{method: "GET", path: "/listactiveimages", handle: (*Server).listActiveImages},
	{method: "GET", path: "/listmyimages", handle: (*Server).listMyImages},
	{method: "GET", path: "/getimage", plain: true, handle: (*Server).getImage},
	{method: "PUT", path: "/requestimagedelete", handle: (*Server).requestImageDelete},
	{method: "DELETE", path: "/deleteimage", handle: (*Server).purgeImage},

	{method: "GET", path: "/healthz", open: true, quiet: true, handle: (*Server).health},
	{method: "GET", path: "/readyz", open: true, quiet: true, handle: (*Server).ready},
	{method: "GET", path: "/metrics", quiet: true, handle: (*Server).scrape},
	{method: "GET", path: "/v1/openapi.yaml", handle: (*Server).describe},
	{method: "GET", path: "/v1/capsules", handle: (*Server).nativeCapsules},
	{method: "GET", path: "/v1/capsules/{id}", handle: (*Server).nativeCapsule},
	{method: "POST", path: "/v1/capsules/{id}/resume", handle: (*Server).resumeCapsule},
	{method: "POST", path: "/v1/capsules/{id}/share", handle: (*Server).shareCapsule},
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
	{method: "POST", path: "/v1/operations/{id}/cancel", handle: (*Server).cancelOperation},
	{method: "GET", path: "/v1/images", handle: (*Server).listImages},
	{method: "POST", path: "/v1/images", handle: (*Server).addImage},
	{method: "POST", path: "/v1/images/gc", handle: (*Server).collectImages},
	{method: "GET", path: "/v1/images/{id}", handle: (*Server).showImage},
	{method: "PATCH", path: "/v1/images/{id}", handle: (*Server).setImage},
	{method: "DELETE", path: "/v1/images/{id}", handle: (*Server).deleteImage},
	{method: "POST", path: "/v1/images/{id}/verify", handle: (*Server).verifyImage},
	{method: "GET", path: "/v1/images/{id}/file", stream: true, handle: (*Server).exportImage},
	{method: "PUT", path: "/v1/images/{id}/file", stream: true, handle: (*Server).uploadImage},
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
		mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			if !spelled(p, r.URL.EscapedPath()) {
				s.notFound(w, r)
				return
			}
			s.dispatch(w, r, methods)
		})
	}
	mux.HandleFunc("/", s.notFound)
	return mux
}

// spelled says whether a path that a pattern matches has its words as the pattern has them: ServeMux decodes those too.
func spelled(pattern, sent string) bool {
	words, parts := strings.Split(pattern, "/"), strings.Split(sent, "/")
	if len(words) != len(parts) {
		return false
	}
	for i, word := range words {
		if !strings.HasPrefix(word, "{") && word != parts[i] {
			return false
		}
	}
	return true
}

func (rt route) paths() []string {
	if envelopeOf(rt.path) == capsuleEnvelope {
		return []string{rt.path, capsulePrefix + rt.path}
	}
	return []string{rt.path}
}

// serve sends a request to its route, by its path as it was sent: what names a call only once it is decoded is none, so that
// nobody is led around what lets paths through by how they are spelled. One of ours that is not in its shortest form is
// refused too: ServeMux would redirect it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	p := r.URL.EscapedPath()
	for _, f := range s.families {
		if f.Speaks(p) {
			s.speak(w, r, f)
			return
		}
	}
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
	x.route, x.quiet, x.plain = rt.name(), rt.quiet, rt.plain
	if !rt.open {
		if err := s.enter(r); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	ctx, cancel := s.bound(w, r, rt)
	defer cancel()
	r = r.WithContext(ctx)
	if rt.stream {
		r.Body = struct {
			io.Reader
			io.Closer
		}{&patientReader{body: r.Body, on: http.NewResponseController(w), ended: ctx.Done()}, r.Body}
	}
	answer, err := rt.handle(s, w, r, x.caller)
	if rt.stream {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(idle)) // the server's own may have passed
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, answer)
}

// bound is the context of a call. That of a stream ends with its connection, or when the server shuts down.
func (s *Server) bound(w http.ResponseWriter, r *http.Request, rt route) (context.Context, context.CancelFunc) {
	if r.Body == http.NoBody && (rt.stream || rt.poll > 0) {
		// net/http reads on to notice that the caller leaves; when its deadline passes it takes that for leaving.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if !rt.stream {
		return context.WithTimeout(r.Context(), requestTime+rt.poll)
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := s.cutReading(http.NewResponseController(w), cancel)
	return ctx, func() { stop(); cancel() }
}
