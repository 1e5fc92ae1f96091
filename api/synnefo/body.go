package synnefo

import (
	"strings"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// maxValue is how many characters a value may have (images contract, section 7).
const maxValue = 256

// readObject reads the JSON object that a request has. XML and every other type is refused.
func readObject(r *dialect.Request) (dialect.Object, error) {
	if !strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "application/json") {
		return nil, dialect.Invalid("the Content-Type must be application/json")
	}
	body, err := r.ReadBody()
	if err != nil {
		return nil, err
	}
	return dialect.ParseObject(body)
}

// decodeMetadata reads {"metadata": {KEY: VALUE...}}. Other names beside metadata are not looked at.
func decodeMetadata(o dialect.Object) (map[string]string, error) {
	return decodeItems(o, "metadata")
}

// decodeItem reads {"meta": {KEY: VALUE}}, whose key must be the path's.
func decodeItem(o dialect.Object, key string) (string, error) {
	items, err := decodeItems(o, "meta")
	if err != nil {
		return "", err
	}
	value, ok := items[key]
	if !ok || len(items) != 1 {
		return "", dialect.Invalid("meta must have exactly one item, and its key must be the one in the path")
	}
	return value, nil
}

func decodeItems(o dialect.Object, name string) (map[string]string, error) {
	in, err := o.Object(name)
	if err != nil {
		return nil, err
	}
	items, err := in.Strings()
	if err != nil {
		return nil, err
	}
	for key, value := range items {
		if n := utf8.RuneCountInString(key); n == 0 || n > daemon.MaxMetadataKey {
			return nil, dialect.Invalid("a key must have 1 to %d characters; one has %d", daemon.MaxMetadataKey, n)
		}
		if n := utf8.RuneCountInString(value); n > maxValue {
			return nil, dialect.Invalid("a value must have %d characters at most; that of %.255q has %d", maxValue, key, n)
		}
	}
	return items, nil
}
