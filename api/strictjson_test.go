package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

func TestDecodeJSON(t *testing.T) {
	for _, row := range []struct {
		name, body, fault string
		want              wire.NewImage
	}{
		{name: "whole", body: ` {"name":"n","path":"/p","public":true} `, want: wire.NewImage{Name: "n", Path: "/p", Public: true}},
		{name: "empty object", body: `{}`},
		{name: "empty", body: ``, fault: "must be one JSON object"},
		{name: "array", body: `[]`, fault: "must be one JSON object"},
		{name: "string", body: `"x"`, fault: "must be one JSON object"},
		{name: "null", body: `null`, fault: "must be one JSON object"},
		{name: "cut", body: `{"name":"n"`, fault: "must be one JSON object"},
		{name: "cut value", body: `{"name":`, fault: "must be one JSON object"},
		{name: "trailing comma", body: `{"name":"n",}`, fault: "must be one JSON object"},
		{name: "bare word", body: `{name:"n"}`, fault: "must be one JSON object"},
		{name: "trailing object", body: `{} {}`, fault: "nothing after it"},
		{name: "trailing garbage", body: `{}x`, fault: "nothing after it"},
		{name: "unknown", body: `{"nam\u001be":"n"}`, fault: `unknown: "nam\x1be" (allowed: name, description, public, visibility, protected,`},
		{name: "other case", body: `{"Name":"n"}`, fault: `unknown: "Name"`},
		{name: "duplicate", body: `{"name":"a","name":"b"}`, fault: "name is given more than once"},
		{name: "duplicate in disguise", body: `{"name":"a","n\u0061me":"b"}`, fault: "name is given more than once"},
		{name: "number for text", body: `{"name":7}`, fault: "name must be of type string, not number"},
		{name: "text for boolean", body: `{"public":"true"}`, fault: "public must be of type boolean, not string"},
		{name: "object for text", body: `{"path":{}}`, fault: "path must be of type string, not object"},
		{name: "null for text", body: `{"path":null}`, fault: "path must not be null"},
		{name: "metadata", body: `{"metadata":{"a":"1","b":""},"bytes":9007199254740993}`,
			want: wire.NewImage{Metadata: map[string]string{"a": "1", "b": ""}, Bytes: func() *int64 { n := int64(9007199254740993); return &n }()}},
		{name: "metadata twice", body: `{"metadata":{"a":"1","\u0061":"2"}}`, fault: `metadata has "a" more than once`},
		{name: "metadata of null", body: `{"metadata":{"a":null}}`, fault: "metadata must have texts and nothing else"},
		{name: "metadata of numbers", body: `{"metadata":{"a":1}}`, fault: "metadata must have texts and nothing else"},
		{name: "list for metadata", body: `{"metadata":["a"]}`, fault: "metadata must be of type object, not array"},
		{name: "half a number", body: `{"min_disk_gb":1.5}`, fault: "min_disk_gb must be of type whole number, not number"},
		{name: "not UTF-8", body: "{\"name\":\"\xff\"}", fault: "must be UTF-8"},
		{name: "deep", body: `{"name":` + strings.Repeat("[", 20000), fault: "must be one JSON object"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got wire.NewImage
			err := decodeJSON(row.body, &got)
			if row.fault == "" {
				if diff := cmp.Diff(row.want, got); diff != "" || err != nil {
					t.Fatalf("error %v; (-want +got):\n%s", err, diff)
				}
				return
			}
			e, ok := errors.AsType[*daemon.Error](err)
			if !ok || e.Code != daemon.Invalid || !strings.Contains(e.Message, row.fault) {
				t.Fatalf("got %v, want invalid with %q", err, row.fault)
			}
		})
	}
}

// FuzzJSON holds the decoder to the promises of FuzzForm, and what it accepts to be what was said and nothing else.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"type":"DEMO"}`, `{"type":"DEMO","type":"RESEARCH"}`, `{"name":"n","path":"/p","public":true}`,
		`{"t\u0079pe":null}`, `{"type":{}} `, "{\"type\":\"\xff\"}", `{"type":"\ud800"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var kind, again wire.CapsuleType
		var img wire.NewImage
		for _, into := range []any{&kind, &img} {
			err := decodeJSON(raw, into)
			if err == nil {
				continue
			}
			if e, ok := errors.AsType[*daemon.Error](err); !ok || e.Code != daemon.Invalid || checkText(e.Message, 1, 4096, "") != nil {
				t.Fatalf("%q is refused with %#v", raw, err)
			}
		}
		if decodeJSON(raw, &kind) != nil {
			return
		}
		said, err := json.Marshal(kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeJSON(string(said), &again); err != nil || kind != again {
			t.Fatalf("%q decodes to %+v, and that to %+v, %v", raw, kind, again, err)
		}
	})
}
