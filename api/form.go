package api

import (
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/capsuled/capsuled/daemon"
)

// maxBody bounds every request body. The largest createvm that the limits below allow has 6 texts of 2048 characters,
// each at most 4 bytes, each byte percent-encoded as 3: 144 KiB, and a little for the rest.
const maxBody = 160 << 10

// param is one parameter that a call allows.
type param struct {
	name     string
	required bool
	check    check
}

type params []param

// fields are the values of a form, checked and in normal form. An absent parameter has no entry.
type fields map[string]string

// readForm reads the form in a POST's body. A missing Content-Type passes only with an empty body.
func readForm(w http.ResponseWriter, r *http.Request, allowed params) (fields, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, invalid("parameters belong in the body, not in the query string")
	}
	body, err := readBody(w, r, "application/x-www-form-urlencoded")
	if err != nil {
		return nil, err
	}
	return allowed.decode(body, "form")
}

// readQuery reads a GET's parameters.
func readQuery(r *http.Request, allowed params) (fields, error) {
	return allowed.decode(r.URL.RawQuery, "query string")
}

// readBody reads a body of one media type, at most maxBody long.
func readBody(w http.ResponseWriter, r *http.Request, want string) (string, error) {
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return "", refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "a Content-Encoding is not supported")
	}
	if rec, ok := w.(*recorder); ok { // MaxBytesReader must see net/http's own writer, or the answer is cut with the body
		w = rec.ResponseWriter
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return "", refuse(http.StatusRequestEntityTooLarge, daemon.Invalid, "the body exceeds %d bytes", maxBody)
	}
	if err != nil {
		return "", &daemon.Error{Code: daemon.Invalid, Message: "the body could not be read to its end", Err: err}
	}
	types := r.Header.Values("Content-Type")
	if len(types) == 0 && len(body) == 0 {
		return "", nil
	}
	if len(types) != 1 || !isMediaType(types[0], want) {
		return "", refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "the body must be %s in UTF-8", want)
	}
	return string(body), nil
}

func isMediaType(header, want string) bool {
	got, args, err := mime.ParseMediaType(header)
	if err != nil || got != want {
		return false
	}
	charset, ok := args["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}

// decode reads raw, application/x-www-form-urlencoded, and refuses it whole if anything in it is wrong: the message
// names every fault. where is the word for raw in it. It never fails but with a *daemon.Error.
func (ps params) decode(raw, where string) (fields, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, &daemon.Error{Code: daemon.Invalid, Message: "the " + where + " is not well-formed application/x-www-form-urlencoded", Err: err}
	}
	got := fields{}
	var faults []string
	for _, p := range ps {
		given := values[p.name]
		delete(values, p.name)
		switch {
		case len(given) > 1:
			faults = append(faults, p.name+" is given more than once")
		case len(given) == 1:
			v, err := p.check(given[0])
			if err != nil {
				faults = append(faults, p.name+" "+err.Error())
				continue
			}
			got[p.name] = v
		case p.required:
			faults = append(faults, p.name+" is missing")
		}
	}
	if len(values) > 0 {
		faults = append(faults, ps.unknown(slices.Sorted(maps.Keys(values))))
	}
	if len(faults) > 0 {
		return nil, invalid("%s", strings.Join(faults, "; "))
	}
	return got, nil
}

// unknown says which names are not allowed, and which are. Names come from the caller: few, short and quoted in ASCII.
func (ps params) unknown(names []string) string {
	const most, longest = 5, 40
	var b strings.Builder
	b.WriteString("unknown: ")
	for i, n := range names[:min(len(names), most)] {
		if i > 0 {
			b.WriteString(", ")
		}
		if len(n) > longest {
			n = n[:longest] + "..."
		}
		b.WriteString(strconv.QuoteToASCII(n))
	}
	if len(names) > most {
		b.WriteString(" and others")
	}
	if len(ps) == 0 {
		return b.String() + " (no parameter is allowed)"
	}
	allowed := make([]string, len(ps))
	for i, p := range ps {
		allowed[i] = p.name
	}
	return b.String() + " (allowed: " + strings.Join(allowed, ", ") + ")"
}

// text is the value of name, nil when absent.
func (f fields) text(name string) *string {
	if v, ok := f[name]; ok {
		return &v
	}
	return nil
}

// number is the value of name, 0 when absent. Its check has seen to it that it is one.
func (f fields) number(name string) int {
	n, _ := strconv.Atoi(f[name])
	return n
}

// flag is the value of name, nil when absent.
func (f fields) flag(name string) *bool {
	v, ok := f[name]
	if !ok {
		return nil
	}
	b := v == "true"
	return &b
}
