package nova

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// plainJSON is what encoding/json makes of a value, without its escapes for HTML.
func plainJSON(t *testing.T, v any) string {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// Strings are written byte by byte as encoding/json writes them.
func FuzzAppendString(f *testing.F) {
	var every []byte
	for c := range 256 {
		every = append(every, byte(c))
	}
	for _, s := range []string{"", "plain", `q"b\s/`, "\b\f\n\r\t\x00\x1f\x7f", "é☐😀", "\u2028\u2029\u202a", "\xff\xed\xa0\x80a\xc3", "<&>", string(every), "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := string(appendString(nil, s)), plainJSON(t, s); got != want {
			t.Errorf("%q is written as %s, not %s", s, got, want)
		}
	})
}

// Whatever is in a record, the reply is JSON that says it.
func FuzzDetail(f *testing.F) {
	f.Add("id", "name", "key", "value", "capsule", "host.example", int64(1), 2)
	f.Add("\"", "\x00\xff", "auto_disk_config", "\u2028", `\`, "a\"b", int64(-1), -1)
	f.Fuzz(func(t *testing.T, id, name, key, value, capsule, host string, size int64, disk int) {
		img := daemon.Image{ID: id, Name: name, State: daemon.ImageActive, Metadata: map[string]string{key: value}, SourceCapsule: capsule,
			FileBytes: size, MinDiskGB: disk, CreatedAt: time.Unix(0, 0), UpdatedAt: time.Unix(0, 0)}
		text := (&call{Request: &dialect.Request{Request: httptest.NewRequest("GET", "/", nil), Base: "http://" + host}, mount: mounts[0]}).links().detail(nil, &img)
		var got struct {
			ID       string
			Name     *string
			Metadata map[string]string
			Size     int64 `json:"OS-EXT-IMG-SIZE:size"`
			MinDisk  int
			Links    []link
			Server   *struct{ ID string }
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		valid := func(s string) string { return string(bytes.ToValidUTF8([]byte(plainText(t, s)), nil)) }
		if got.ID != valid(id) || (got.Name == nil) != (name == "") || got.Name != nil && *got.Name != valid(name) ||
			!maps.Equal(got.Metadata, map[string]string{valid(key): valid(value)}) || got.Size != size || got.MinDisk != disk ||
			(got.Server == nil) != (capsule == "") || got.Server != nil && got.Server.ID != valid(capsule) {
			t.Errorf("%+v from %s", got, text)
		}
		want := []link{{Rel: "self", Href: valid("http://" + host + "/v2.1/images/" + id)}, {Rel: "bookmark", Href: valid("http://" + host + "/images/" + id)},
			{Rel: "alternate", Type: "application/vnd.openstack.image", Href: valid("http://" + host + "/image/images/" + id)}}
		if !reflect.DeepEqual(got.Links, want) && valid(id) == id && valid(host) == host {
			t.Errorf("%+v, want %+v", got.Links, want)
		}
	})
}

// plainText is s as a reader of JSON sees it.
func plainText(t *testing.T, s string) string {
	t.Helper()
	var out string
	if err := json.Unmarshal([]byte(plainJSON(t, s)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}
