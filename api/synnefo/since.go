package synnefo

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
)

// sinceForm is a time and, apart from it, its zone. A zone's + that was sent as it is arrives as a space.
var sinceForm = regexp.MustCompile(`\A(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?) ?(Z|UTC|[+ -]\d\d:?\d\d)?\z`)

// parseSince reads a time that says its zone: without one it would mean another moment to everybody who reads it
// (images contract, section 5.4).
func parseSince(s string) (time.Time, error) {
	bad := dialect.Invalid("changes-since %.64q must be a date and time with a zone, such as 2012-02-29T13:00:00Z or 2012-02-29T15:00:00%%2B02:00", s)
	form := sinceForm.FindStringSubmatch(s)
	if form == nil || form[2] == "" {
		return time.Time{}, bad
	}
	stamp := strings.Replace(form[1], " ", "T", 1)
	layout := "2006-01-02T15:04:05" // takes a fraction too
	if len(stamp) == len("2006-01-02T15:04") {
		layout = "2006-01-02T15:04"
	}
	t, err := time.Parse(layout, stamp)
	if err != nil {
		return time.Time{}, bad
	}
	east, ok := zoneOffset(form[2])
	if !ok {
		return time.Time{}, bad
	}
	return t.Add(-east), nil
}

// zoneOffset is how far a zone that sinceForm found is ahead of UTC.
func zoneOffset(zone string) (time.Duration, bool) {
	if zone == "Z" || zone == "UTC" {
		return 0, true
	}
	digits := strings.Replace(zone[1:], ":", "", 1)
	hours, _ := strconv.Atoi(digits[:2])
	minutes, _ := strconv.Atoi(digits[2:])
	east := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if zone[0] == '-' {
		east = -east
	}
	return east, hours < 24 && minutes < 60
}

// changedSince is what a list is asked for with changes-since; the zero time when it is not. Of a parameter that is
// repeated the last value counts.
func (f *family) changedSince(r *http.Request) (time.Time, error) {
	query, err := dialect.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return time.Time{}, err
	}
	given := last(query, "changes-since")
	if given == "" {
		return time.Time{}, nil
	}
	t, err := parseSince(given)
	if err != nil {
		return time.Time{}, err
	}
	switch age := time.Since(t); {
	case age < 0:
		return time.Time{}, dialect.Invalid("changes-since is in the future")
	case age > f.pollLimit:
		return time.Time{}, dialect.Invalid("changes-since is more than %d seconds ago; list the images without it", int(f.pollLimit.Seconds()))
	}
	return t, nil
}
