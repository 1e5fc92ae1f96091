package synnefo

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// resource is what a path names.
type resource int

const (
	versionList resource = iota
	versionOne
	imageList
	imageDetail
	imageOne
	metadataAll
	metadataItem
)

// pattern is how metrics call the path of a resource.
func (v *version) pattern(at resource) string {
	images := v.path + "/images"
	return map[resource]string{
		versionList:  strings.TrimSuffix(v.path, "/"+v.id),
		versionOne:   v.path + "/",
		imageList:    images,
		imageDetail:  images + "/detail",
		imageOne:     images + "/{id}",
		metadataAll:  images + "/{id}/" + v.meta,
		metadataItem: images + "/{id}/" + v.meta + "/{key}",
	}[at]
}

// place is a resource with the names that its path has.
type place struct {
	at  resource
	id  string
	key string // decoded, without the suffix
}

// locate reads a path as it was sent. Only the id and the key are decoded; whatever else is written otherwise than in
// the contract (section 5.1) is no path, and what is none is 400 in this dialect, not 404.
func (v *version) locate(escaped string) (place, error) {
	nowhere := dialect.Refuse(http.StatusBadRequest, daemon.NotFound, "no such path in version %s", v.id)
	if at, ok := v.documents[escaped]; ok {
		return place{at: at}, nil
	}
	rest, ok := strings.CutPrefix(escaped, v.path+"/images")
	if !ok {
		return place{}, nowhere
	}
	switch rest {
	case "", "/", ".json", ".xml":
		return place{at: imageList}, nil
	}
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return place{}, nowhere
	}
	id, below, deeper := strings.Cut(rest, "/")
	if !deeper {
		id = withoutSuffix(id)
	}
	if !deeper && id == "detail" {
		return place{at: imageDetail}, nil
	}
	id, err := url.PathUnescape(id)
	if err != nil || !isID(id) {
		return place{}, nowhere
	}
	if !deeper {
		return place{at: imageOne, id: id}, nil
	}
	word, key, deeper := strings.Cut(below, "/")
	switch {
	case !deeper && withoutSuffix(word) == v.meta:
		return place{at: metadataAll, id: id}, nil
	case !deeper || word != v.meta || key == "":
		return place{}, nowhere
	}
	key, err = url.PathUnescape(key)
	if err != nil || !utf8.ValidString(key) {
		return place{}, dialect.Invalid("the key in the path must be percent-encoded UTF-8")
	}
	return place{at: metadataItem, id: id, key: withoutSuffix(key)}, nil
}

// withoutSuffix takes one suffix off, unless nothing would be left: a key that is really called x.json is asked for as
// x.json.json.
func withoutSuffix(s string) string {
	for _, suffix := range []string{".json", ".xml"} {
		if short, ok := strings.CutSuffix(s, suffix); ok && short != "" {
			return short
		}
	}
	return s
}

// isID says whether a word can be an image's id: [A-Za-z0-9_-]+.
func isID(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != ""
}
