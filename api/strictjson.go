package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/capsuled/capsuled/daemon"
)

// decodeJSON reads one flat object into the struct that into points to. Names must match exactly (encoding/json alone
// would fold case), each at most once, none unknown, no null; and nothing may follow. It never fails but with a
// *daemon.Error.
func decodeJSON(body string, into any) error {
	if !utf8.ValidString(body) {
		return invalid("the body must be UTF-8")
	}
	known := jsonNames(reflect.TypeOf(into).Elem())
	dec := json.NewDecoder(strings.NewReader(body))
	seen := map[string]bool{}
	err := members(dec, func(name string, value json.RawMessage) error {
		switch {
		case !slices.Contains(known, name):
			return invalid("%s", nameParams(known).unknown([]string{name}))
		case seen[name]:
			return invalid("%s is given more than once", name)
		case bytes.Equal(value, []byte("null")):
			return invalid("%s must not be null", name)
		}
		seen[name] = true
		if value[0] == '{' {
			return distinct(name, value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("the body must be one JSON object and nothing after it")
	}
	err = json.Unmarshal([]byte(body), into)
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return invalid("%s must be of type %s, not %s", t.Field, jsonKind(t.Type), t.Value)
	}
	if err != nil {
		return malformed(err)
	}
	return nil
}

// distinct holds a map of texts to the same rules: encoding/json would take the last of two values, and "" for null. What
// is no map of texts is left to the decoder of its field.
func distinct(field string, value json.RawMessage) error {
	seen := map[string]bool{}
	return members(json.NewDecoder(bytes.NewReader(value)), func(name string, item json.RawMessage) error {
		switch {
		case seen[name]:
			return invalid("%s has %.255q more than once", field, name)
		case item[0] != '"':
			return invalid("%s must have texts and nothing else", field)
		}
		seen[name] = true
		return nil
	})
}

// members hands the members of the object that comes next to f, one by one as they were sent.
func members(dec *json.Decoder, f func(name string, value json.RawMessage) error) error {
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return malformed(err)
	}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return malformed(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return malformed(err)
		}
		if err := f(name, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return malformed(err)
	}
	return nil
}

func malformed(err error) error {
	return &daemon.Error{Code: daemon.Invalid, Message: "the body must be one JSON object", Err: err}
}

// jsonNames are the names of t's fields as they travel.
func jsonNames(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func nameParams(names []string) params {
	ps := make(params, len(names))
	for i, n := range names {
		ps[i].name = n
	}
	return ps
}

func jsonKind(t reflect.Type) string {
	if kind, ok := jsonKinds[t.Kind()]; ok {
		return kind
	}
	return t.Kind().String()
}

// jsonKinds are the words of JSON, where they are not those of Go.
var jsonKinds = map[reflect.Kind]string{reflect.Bool: "boolean", reflect.Int: "whole number", reflect.Int64: "whole number",
	reflect.Map: "object", reflect.Slice: "array"}
