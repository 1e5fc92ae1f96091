package dialect

import (
	"net/url"
	"strings"

	"github.com/capsuled/capsuled/daemon"
)

// ParseQuery reads a query string. A bare semicolon is a byte like any other, where net/url takes it for a fault: what these
// dialects do not know they ignore (images contract, section 4.2). It fails with an Invalid for a bad escape alone.
func ParseQuery(raw string) (url.Values, error) {
	values, err := url.ParseQuery(strings.ReplaceAll(raw, ";", "%3B"))
	if err != nil {
		return nil, &Refusal{Code: daemon.Invalid, Message: "the query string is malformed: a % must be followed by two hex digits", Err: err}
	}
	return values, nil
}
