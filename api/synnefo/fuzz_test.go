package synnefo

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// FuzzLocate wants a path to be read the same way however it is looked at: what Open leaves to everybody is a document
// or nothing, and a key can be asked for again by what was found of it.
func FuzzLocate(f *testing.F) {
	for _, path := range []string{"/api", "/api/v1.1/", "/api/v1.1/images", "/api/v1.1/images/detail.xml", "/api/v1.1/images/a/meta/b.json",
		"/api/v1.1/images/a/meta/b%2Fc/d", "/api%2F", "/compute/v2.0/images/a/metadata/%E2%98%90.xml.json", "/compute/v2.0/images/a/metadata/.json"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		u, err := url.ParseRequestURI(escaped)
		if err != nil || u.Host != "" || u.Opaque != "" {
			return
		}
		escaped = u.EscapedPath()
		for _, fam := range New(Options{}) {
			v := fam.(*family).version
			p, err := v.locate(escaped)
			if err == nil && !fam.Speaks(u.Path) {
				t.Fatalf("%s is %+v in %s, and nobody would ask", escaped, p, v.id)
			}
			if err != nil {
				continue
			}
			if document := p.at == versionList || p.at == versionOne; fam.Open("GET", u.Path) != document {
				t.Fatalf("%s is %+v and open: %v", escaped, p, !document)
			}
			if p.at != metadataItem {
				continue
			}
			if p.key == "" || !utf8.ValidString(p.key) || !isID(p.id) {
				t.Fatalf("%s is %+v", escaped, p)
			}
			again, err := v.locate(v.path + "/images/" + p.id + "/" + v.meta + "/" + url.PathEscape(p.key) + ".json")
			if err != nil || again != p {
				t.Fatalf("%s is %+v, and asked for again %+v, %v", escaped, p, again, err)
			}
		}
	})
}

// FuzzSince wants a time that was read to be read again as the same, in UTC and in another zone.
func FuzzSince(f *testing.F) {
	for _, s := range []string{"2012-02-29T13:00:00Z", "2012-02-29T13:00:00.25 02:00", "2012-02-29 13:00-0800", "2012-02-29T13:00:00 UTC", "2012-02-29T13:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseSince(s)
		if err != nil {
			return
		}
		if year := at.Year(); year < 0 || year > 9999 {
			return // its zone moved it out of what can be written
		}
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("", -5400)} {
			text := at.In(zone).Format("2006-01-02T15:04:05.999999999Z07:00")
			if strings.HasPrefix(text, "-") || len(text) > 35 || at.In(zone).Year() > 9999 {
				continue
			}
			if again, err := parseSince(text); err != nil || !again.Equal(at) {
				t.Fatalf("%q is %v, and %s is %v, %v", s, at, text, again, err)
			}
		}
	})
}

// FuzzBody wants what a body is read as to keep the dialect's limits, and to be written in XML and JSON that can be read.
func FuzzBody(f *testing.F) {
	for _, body := range []string{`{"metadata":{"a":"b"}}`, `{"meta":{"a":"b"}}`, `{"metadata":{"\u0001☐":"\ud83d\ude00"},"x":[1]}`, `{"metadata":{"values":{}}}`, `<a/>`} {
		f.Add([]byte(body), "a")
	}
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		o, err := dialect.ParseObject(body)
		if err != nil {
			return
		}
		if value, err := decodeItem(o, key); err == nil {
			if n := utf8.RuneCountInString(key); n == 0 || n > daemon.MaxMetadataKey || utf8.RuneCountInString(value) > maxValue {
				t.Fatalf("an item of %d characters passed", n)
			}
			readable(t, item{key, value})
		}
		if items, err := decodeMetadata(o); err == nil {
			for key, value := range items {
				if n := utf8.RuneCountInString(key); n == 0 || n > daemon.MaxMetadataKey || utf8.RuneCountInString(value) > maxValue {
					t.Fatalf("an item of %d characters passed", n)
				}
			}
			readable(t, metadata{items, true})
			readable(t, single{&daemon.Image{Name: key, Metadata: items}, "http://" + key})
		}
	})
}

func readable(t *testing.T, d document) {
	dec := xml.NewDecoder(strings.NewReader(string(marked(d.xml))))
	for {
		if _, err := dec.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v: %s", err, marked(d.xml))
		}
	}
	for i := range versions {
		if text, err := json.Marshal(d.json(&versions[i])); err != nil || !utf8.Valid(text) {
			t.Fatalf("%v: %q", err, text)
		}
	}
}

// TestParseSince wants the moment that a text says.
func TestParseSince(t *testing.T) {
	for text, want := range map[string]string{
		"2012-02-29T13:00:00Z":           "2012-02-29T13:00:00Z",
		"2012-02-29T13:00:00.123456789Z": "2012-02-29T13:00:00.123456789Z",
		"2012-02-29T13:00:00,5Z":         "2012-02-29T13:00:00.5Z",
		"2012-02-29T13:00Z":              "2012-02-29T13:00:00Z",
		"2012-02-29 13:00:00UTC":         "2012-02-29T13:00:00Z",
		"2012-02-29T13:00:00+02:30":      "2012-02-29T10:30:00Z",
		"2012-02-29T13:00:00 02:30":      "2012-02-29T10:30:00Z",
		"2012-02-29T13:00:00 +02:30":     "2012-02-29T10:30:00Z",
		"2012-02-29T13:00:00-0230":       "2012-02-29T15:30:00Z",
		"2012-02-29T23:00:00-05:00":      "2012-03-01T04:00:00Z",
		"2012-02-29T13:00:00":            "",
		"2012-02-29 02:00":               "", // no zone: a space that could be a plus is not one
		"2011-02-29T13:00:00Z":           "",
		"2012-13-01T13:00:00Z":           "",
		"2012-02-01T24:00:00Z":           "",
		"2012-02-01T13:60:00Z":           "",
		"2012-02-01T13:00:61Z":           "",
		"2012-02-01T13:00:00z":           "",
		"2012-02-01t13:00:00Z":           "",
		"2012-02-01T13:00:00+24:00":      "",
		"2012-02-01T13:00:00+02:60":      "",
		"2012-02-01T13:00:00CET":         "",
		"2012-02-01Z":                    "",
		"12-02-01T13:00:00Z":             "",
		"2012-02-01T13:00:00.Z":          "",
		"\n2012-02-01T13:00:00Z":         "",
		"2012-02-01T13:00:00Z\n":         "",
	} {
		at, err := parseSince(text)
		got := at.Format(time.RFC3339Nano)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
