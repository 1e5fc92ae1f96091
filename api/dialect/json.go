package dialect

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/capsuled/capsuled/daemon"
)

const (
	// MaxBody is how long the body of a request may be that is not a file (images contract, section 7).
	MaxBody = 114688
	// maxDepth is how deep JSON may be nested. encoding/json allows 10,000.
	maxDepth = 32
)

// ReadBody reads the body, which package api keeps to MaxBody bytes.
func (r *Request) ReadBody() ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, Refuse(http.StatusRequestEntityTooLarge, daemon.Invalid, "the body exceeds %d bytes", MaxBody)
	}
	if err != nil {
		return nil, &Refusal{Code: daemon.Invalid, Message: "the body could not be read to its end", Err: err}
	}
	return body, nil
}

// Object is a JSON object, its values still encoded, by name.
type Object map[string]json.RawMessage

// ParseObject reads exactly one JSON object in UTF-8. A name that is given twice at any depth is refused: two programs
// would read two things. So is what is nested too deep, what follows the object, and half of a surrogate pair, which
// encoding/json would replace unsaid.
func ParseObject(body []byte) (Object, error) {
	if !utf8.Valid(body) {
		return nil, Invalid("the body must be UTF-8")
	}
	if len(strings.TrimSpace(string(body))) == 0 {
		return nil, Invalid("the body is empty; it must be one JSON object")
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	var o Object
	if err := json.Unmarshal(body, &o); err != nil || o == nil {
		return nil, &Refusal{Code: daemon.Invalid, Message: "the body must be one JSON object", Err: err}
	}
	return o, nil
}

// Object is the object that a value is; Invalid if it is another thing.
func (o Object) Object(name string) (Object, error) {
	var in Object
	value, ok := o[name]
	if !ok {
		return nil, Invalid("%s is missing", name)
	}
	if err := json.Unmarshal(value, &in); err != nil || in == nil {
		return nil, Invalid("%s must be an object", name)
	}
	return in, nil
}

// Strings reads every value as a string; Invalid if one is another thing, null among them.
func (o Object) Strings() (map[string]string, error) {
	out := make(map[string]string, len(o))
	for name, value := range o {
		var s *string
		if err := json.Unmarshal(value, &s); err != nil || s == nil {
			return nil, Invalid("the value of %.255q must be a string", name)
		}
		out[name] = *s
	}
	return out, nil
}

// checkJSON walks a document once.
func checkJSON(body []byte) error {
	if err := surrogates(body); err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	type level struct {
		names map[string]bool // nil in an array
		value bool            // a value comes next, not a name
	}
	var stack []level
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return &Refusal{Code: daemon.Invalid, Message: "the body is not well-formed JSON", Err: err}
		}
		top := len(stack) - 1
		if top >= 0 && stack[top].names != nil && token != json.Delim('}') {
			if !stack[top].value {
				name := token.(string)
				if stack[top].names[name] {
					return Invalid("%.255q is given more than once", name)
				}
				stack[top].names[name], stack[top].value = true, true
				continue
			}
			stack[top].value = false
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{names: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if len(stack) > maxDepth {
			return Invalid("the body is nested deeper than %d levels", maxDepth)
		}
		if len(stack) == 0 && dec.More() {
			return Invalid("the body must be one JSON document and nothing after it")
		}
	}
}

// surrogates refuses escapes that stand for half a character (RFC 8259, section 8.2).
func surrogates(body []byte) error {
	half := func(at int) (rune, bool) {
		if at+6 > len(body) || body[at] != '\\' || body[at+1] != 'u' {
			return 0, false
		}
		var r rune
		for _, c := range body[at+2 : at+6] {
			switch {
			case c >= '0' && c <= '9':
				r = r<<4 | rune(c-'0')
			case c >= 'a' && c <= 'f':
				r = r<<4 | rune(c-'a'+10)
			case c >= 'A' && c <= 'F':
				r = r<<4 | rune(c-'A'+10)
			default:
				return 0, false
			}
		}
		return r, true
	}
	for at := 0; at < len(body); at++ {
		if body[at] != '\\' {
			continue
		}
		r, ok := half(at)
		switch {
		case !ok:
			at++ // another escape: what follows the backslash is no escape of its own
		case r >= 0xD800 && r < 0xDC00:
			if low, ok := half(at + 6); !ok || low < 0xDC00 || low > 0xDFFF {
				return Invalid("the body has half of a surrogate pair")
			}
			at += 11
		case r >= 0xDC00 && r <= 0xDFFF:
			return Invalid("the body has half of a surrogate pair")
		default:
			at += 5
		}
	}
	return nil
}
