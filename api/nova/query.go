package nova

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// longestPage is how many images a page has at most, and by default (images contract, section 4.2).
const longestPage = 1000

// listing is what a list's query string asks for.
type listing struct{ daemon.ImageQuery }

// parameters are those that have a meaning; every other is ignored. A parameter that is given more than once means its
// last value.
var parameters = map[string]func(l *listing, value string) error{
	"marker":        func(l *listing, value string) error { l.Marker = value; return nil },
	"name":          func(l *listing, value string) error { l.Name = &value; return nil },
	"status":        (*listing).status,
	"server":        (*listing).server,
	"type":          (*listing).imageType,
	"minRam":        func(l *listing, value string) error { return l.number("minRam", value, &l.MinRAMMB) },
	"minDisk":       func(l *listing, value string) error { return l.number("minDisk", value, &l.MinDiskGB) },
	"changes-since": (*listing).changesSince,
}

// parseQuery reads a query string. The values come back as well, for the link to the next page.
func (v *variant) parseQuery(raw string) (listing, url.Values, error) {
	l := listing{}
	given, err := dialect.ParseQuery(raw)
	if err != nil {
		return l, nil, err
	}
	for name, values := range given {
		last := values[len(values)-1]
		if !utf8.ValidString(name) || !utf8.ValidString(last) {
			return l, nil, dialect.Invalid("the query string must be UTF-8")
		}
		if key, ok := strings.CutPrefix(name, "property-"); ok {
			l.item(key, last)
		} else if set := parameters[name]; set != nil {
			if err := set(&l, last); err != nil {
				return l, nil, err
			}
		}
	}
	for _, name := range []string{"limit", "offset", "page_size"} {
		for _, value := range given[name] { // every one of them, not just the last
			if !digits(value) {
				return l, nil, dialect.Invalid("%s must be a number of 0 or more, not %.32q", name, value)
			}
		}
	}
	l.Limit = longestPage
	for _, value := range given["limit"] {
		n, err := strconv.Atoi(value)
		if err == nil && n == 0 && !v.zeroLimit {
			return l, nil, dialect.Invalid("limit must be at least 1")
		}
		l.Limit = longestPage
		if err == nil && n > 0 { // a number that no int holds is more than a page
			l.Limit = min(n, longestPage)
		}
	}
	return l, given, nil
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// shown are the states behind each status that is shown, in lower case.
var shown = map[string][]daemon.ImageState{
	"active":  {daemon.ImageActive},
	"saving":  {daemon.ImagePending},
	"deleted": {daemon.ImageDeletePending, daemon.ImageDeleted},
	"error":   {daemon.ImageError},
}

func (l *listing) status(value string) error {
	l.States = shown[strings.ToLower(value)]
	l.Nothing = l.Nothing || l.States == nil
	return nil
}

// server takes an id, or any URL that ends with it.
func (l *listing) server(value string) error {
	l.SourceCapsule = value[strings.LastIndexByte(value, '/')+1:]
	l.Nothing = l.Nothing || l.SourceCapsule == ""
	return nil
}

func (l *listing) imageType(value string) error {
	if value != "ALL" { // of old documentation: no filter
		l.item("image_type", value)
	}
	return nil
}

// item asks for an item; two values for one key match nothing.
func (l *listing) item(key, value string) {
	if l.Metadata == nil {
		l.Metadata = map[string]string{}
	}
	if before, ok := l.Metadata[key]; ok && before != value {
		l.Nothing = true
	}
	l.Metadata[key] = value
}

func (l *listing) number(name, value string, to **int) error {
	if !digits(strings.TrimPrefix(value, "-")) {
		return dialect.Invalid("%s must be an integer, not %.32q", name, value)
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		l.Nothing = true // more than any image has
	}
	*to = &n
	return nil
}

func (l *listing) changesSince(value string) error {
	at, err := parseTime(value)
	if err != nil {
		return dialect.Invalid("changes-since must be a time in ISO 8601, such as 2026-03-01T12:00:00Z, not %.64q", value)
	}
	if at.IsZero() {
		at = at.Add(1) // the zero time would mean no filter
	}
	l.ChangedSince = at
	return nil
}

var timePattern = regexp.MustCompile(`\A(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?(?:[.,](\d{1,18}))?(Z|[+-]\d{2}(?::?\d{2})?)?)?\z`)

// parseTime reads a time in ISO 8601. One without a zone is in UTC; seconds, and all of the time, may be left out.
func parseTime(value string) (time.Time, error) {
	p := timePattern.FindStringSubmatch(value)
	if p == nil || p[4] != "" && p[3] == "" {
		return time.Time{}, strconv.ErrSyntax
	}
	date, clock, seconds, fraction, zone := p[1], p[2], p[3], p[4], p[5]
	if clock == "" {
		clock = "00:00"
	}
	if seconds == "" {
		seconds = ":00"
	}
	if fraction != "" {
		fraction = "." + fraction[:min(len(fraction), 9)]
	}
	switch zone = strings.ReplaceAll(zone, ":", ""); len(zone) {
	case 0:
		zone = "Z"
	case 3:
		zone += ":00"
	case 5:
		zone = zone[:3] + ":" + zone[3:]
	}
	return time.Parse(time.RFC3339Nano, date+"T"+clock+seconds+fraction+zone)
}
