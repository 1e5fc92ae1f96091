package nova

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// The minor versions of 2 that are served (images contract, section 4.5). The newest is the last that has an image call.
const (
	oldest = 1
	newest = lastMetadata
)

const (
	versionHeader = "OpenStack-API-Version"
	legacyHeader  = "X-OpenStack-Nova-API-Version"
)

var versionPattern = regexp.MustCompile(`\A([1-9][0-9]*)\.(0|[1-9][0-9]*)\z`)

func versionText(minor int) string { return "2." + strconv.Itoa(minor) }

// minor is the minor version that a request asks for; the oldest where there are none.
func (v *variant) minor(h http.Header) (int, error) {
	if !v.microversions {
		return oldest, nil
	}
	asked := askedVersion(h)
	switch asked {
	case "":
		return oldest, nil
	case "latest":
		return newest, nil
	}
	parts := versionPattern.FindStringSubmatch(asked)
	if parts == nil {
		return 0, dialect.Invalid("API version string %.32q is not of the form MAJOR.MINOR, with numbers, or latest", asked)
	}
	minor, err := strconv.Atoi(parts[2])
	if err != nil || parts[1] != "2" || minor < oldest || minor > newest {
		return 0, dialect.Refuse(http.StatusNotAcceptable, daemon.Invalid,
			"version %.32s is not supported by the API. Minimum is %s and maximum is %s.", asked, versionText(oldest), versionText(newest))
	}
	return minor, nil
}

// has refuses a route that the version asked for no longer has. Version documents are in all of them, and for clients that
// know no version that is served.
func (v *variant) has(r *route, h http.Header) error {
	if r.newest == 0 {
		return nil
	}
	minor, err := v.minor(h)
	if err == nil && minor > r.newest {
		return noRoute()
	}
	return err
}

// askedVersion is what the newer header says of compute, or else what the older one says. In a list the last word counts.
func askedVersion(h http.Header) string {
	asked, found := "", false
	for entry := range strings.SplitSeq(strings.Join(h.Values(versionHeader), ","), ",") {
		service, version, _ := strings.Cut(strings.TrimSpace(entry), " ")
		if strings.EqualFold(service, "compute") {
			asked, found = strings.TrimSpace(version), true
		}
	}
	if found && asked == "" {
		return "none" // the header without a version is malformed, and not absent
	}
	if !found {
		asked = strings.TrimSpace(h.Get(legacyHeader))
	}
	return asked
}
