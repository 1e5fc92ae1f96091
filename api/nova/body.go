package nova

import (
	"mime"
	"net/http"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// Bounds of an item that is written (images contract, section 4.3), in code points. Other dialects allow more, and what
// they wrote is shown as it is.
const (
	longestKey   = 255
	longestValue = 255
)

// readMembers reads a body. One without a media type is taken as JSON, and so is plain text.
func readMembers(req *dialect.Request) (dialect.Object, error) {
	if given := req.Header.Values("Content-Type"); len(given) > 1 || len(given) == 1 && given[0] != "" && !isJSON(given[0]) {
		return nil, dialect.Refuse(http.StatusUnsupportedMediaType, daemon.Invalid,
			"unsupported Content-Type; it must be application/json or application/vnd.openstack.compute+json")
	}
	body, err := req.ReadBody()
	if err != nil {
		return nil, err
	}
	return dialect.ParseObject(body)
}

func isJSON(given string) bool {
	kind, _, err := mime.ParseMediaType(given)
	return err == nil && (kind == mediaType || kind == "application/vnd.openstack.compute+json" || kind == "text/plain")
}

// itemsOf reads the one member of a body that counts: a map of strings that may be written.
func (c *call) itemsOf(member string) (map[string]string, error) {
	if !c.unknown {
		for name := range c.members {
			if name != member {
				return nil, dialect.Invalid("the body has %.255q, which is not known; it must have %s and nothing else", name, member)
			}
		}
	}
	inner, err := c.members.Object(member)
	if err != nil {
		return nil, err
	}
	items, err := inner.Strings()
	if err != nil {
		return nil, err
	}
	for key, value := range items {
		if !writable(key) {
			return nil, dialect.Invalid("metadata key %.255q must have 1 to %d of A-Z a-z 0-9 - _ : . and space", key, longestKey)
		}
		if n := utf8.RuneCountInString(value); n > longestValue {
			return nil, dialect.Invalid("the value of %q has %d characters; %d are allowed", key, n, longestValue)
		}
	}
	return items, nil
}

// writable says whether a key may be written.
func writable(key string) bool {
	for _, c := range []byte(key) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '_', c == ':', c == '.', c == ' ':
		default:
			return false
		}
	}
	return key != "" && len(key) <= longestKey
}
