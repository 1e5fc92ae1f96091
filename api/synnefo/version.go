package synnefo

import (
	"net/http"

	"github.com/capsuled/capsuled/daemon"
)

// version is one version of the API. What differs between two of them is here, and in no other code.
type version struct {
	id        string
	path      string              // what its images are below
	documents map[string]resource // the paths of its version documents
	atom      bool                // they come as Atom too
	updated   string              // when the version was made, as its documents say it
	since     string              // the same, as RFC 3339 has it

	meta        string // what the path of metadata is called
	formatQuery bool   // ?format= chooses the serialization
	noMethod    int    // status of a method that a path has not
	noCreate    int    // status of POST /images
	status      map[daemon.Code]int

	wrap       func(any) any                             // around a collection that is read
	image      func(m *daemon.Image, base string) any    // one image in full
	mediaTypes func(doc *versionJSON, types []mediaType) // puts the media types where its document has them
}

var versions = []version{
	{
		id:   "v1.1",
		path: "/api/v1.1",
		documents: map[string]resource{
			"/api": versionList, "/api/": versionList, "/api.json": versionList, "/api.xml": versionList, "/api.atom": versionList,
			"/api/v1.1": versionOne, "/api/v1.1/": versionOne,
		},
		atom:     true,
		updated:  "2011-04-01",
		since:    "2011-04-01T00:00:00Z",
		meta:     "meta",
		noMethod: http.StatusBadRequest,
		noCreate: http.StatusServiceUnavailable,
		// What nobody expected is 503 here, as whatever else is no fault of the caller's.
		status: statuses(map[daemon.Code]int{
			daemon.Unsupported: http.StatusServiceUnavailable,
			daemon.Internal:    http.StatusServiceUnavailable,
		}),
		wrap:       func(x any) any { return valuesJSON{x} },
		image:      image11,
		mediaTypes: func(doc *versionJSON, types []mediaType) { doc.MediaTypes11 = types },
	},
	{
		id:   "v2.0",
		path: "/compute/v2.0",
		documents: map[string]resource{
			"/compute": versionList, "/compute/": versionList, "/compute.json": versionList, "/compute.xml": versionList,
			"/compute/v2.0": versionOne, "/compute/v2.0/": versionOne,
		},
		updated:     "2011-01-21T11:33:21-06:00",
		since:       "2011-01-21T11:33:21-06:00",
		meta:        "metadata",
		formatQuery: true,
		noMethod:    http.StatusMethodNotAllowed,
		noCreate:    http.StatusNotImplemented,
		status: statuses(map[daemon.Code]int{
			daemon.Unsupported: http.StatusNotImplemented,
			daemon.Internal:    http.StatusInternalServerError,
		}),
		wrap:       func(x any) any { return x },
		image:      image20,
		mediaTypes: func(doc *versionJSON, types []mediaType) { doc.MediaTypes20 = types },
	},
}

// statuses adds the codes that both versions answer alike (images contract, section 5.5).
func statuses(own map[daemon.Code]int) map[daemon.Code]int {
	for code, status := range map[daemon.Code]int{
		daemon.Invalid:      http.StatusBadRequest,
		daemon.Unauthorized: http.StatusUnauthorized,
		daemon.Forbidden:    http.StatusForbidden,
		daemon.NotFound:     http.StatusNotFound,
		daemon.Conflict:     http.StatusConflict,
		daemon.Gone:         http.StatusConflict,
		daemon.Busy:         http.StatusConflict,
		daemon.OverQuota:    http.StatusRequestEntityTooLarge,
		daemon.Exhausted:    http.StatusServiceUnavailable,
		daemon.Unavailable:  http.StatusServiceUnavailable,
	} {
		own[code] = status
	}
	return own
}
