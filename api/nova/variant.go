package nova

import "net/http"

// variant is how one version of the API differs from the other (images contract, sections 4 and 11).
type variant struct {
	name          string // as in metrics
	microversions bool   // their headers are read and answered
	suffix        string // what may follow the last name of a path that is no key of metadata
	wrongMethod   int    // the status when the path is known and the method is not
	zeroLimit     bool   // "limit=0" means the longest page
	unknown       bool   // members of a body that are not known are dropped, and not refused
	gone          map[deed]int
	tooMany       int    // the status when an image would have too many items
	retryTooMany  string // and what is said of asking again; "" for nothing
	version       version
}

// deed is what a route does to an image, as far as statuses depend on it.
type deed int

const (
	reads deed = iota
	writes
	deletes
)

var v21 = &variant{
	name:          "/v2.1",
	microversions: true,
	wrongMethod:   http.StatusNotFound, // Nova's router never matches
	gone:          map[deed]int{writes: http.StatusForbidden, deletes: http.StatusForbidden},
	tooMany:       http.StatusForbidden,
	version: version{ID: "v2.1", Status: "CURRENT", Version: versionText(newest), MinVersion: versionText(oldest),
		Updated: "2013-07-23T11:33:21Z", mediaType: "application/vnd.openstack.compute+json;version=2.1"},
}

var v2 = &variant{
	name:         "/v2",
	suffix:       ".json",
	wrongMethod:  http.StatusMethodNotAllowed,
	zeroLimit:    true,
	unknown:      true,
	gone:         map[deed]int{writes: http.StatusConflict, deletes: http.StatusForbidden},
	tooMany:      http.StatusRequestEntityTooLarge,
	retryTooMany: "0", // as Nova did; it keeps clients from taking it for a limit of rate
	version: version{ID: "v2.0", Status: "SUPPORTED", Updated: "2011-01-21T11:33:21Z",
		mediaType: "application/vnd.openstack.compute+json;version=2"},
}

// mount is a prefix of paths, and who speaks below it. Bookmarks are links without the version.
type mount struct {
	prefix, bookmark string
	*variant
}

var mounts = []*mount{
	{prefix: "/v2.1", variant: v21},
	{prefix: "/v2", variant: v2},
	{prefix: "/compute/v2.1", bookmark: "/compute", variant: v21}, // devstack's layout
}
