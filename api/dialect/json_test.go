package dialect_test

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect"
)

func TestParseObject(t *testing.T) {
	for _, row := range []struct{ name, body, want string }{
		{"object", `{"a":{"b":"c"},"d":[1,{"a":2},{"a":3}]}`, ""},
		{"spaces around", " {\"a\":1} \n", ""},
		{"pair of surrogates", `{"a":"\ud83d\ude00"}`, ""},
		{"escaped backslash before u", `{"a":"\\ud83d"}`, ""},
		{"nothing", " ", "empty"},
		{"array", `[1]`, "one JSON object"},
		{"null", `null`, "one JSON object"},
		{"cut", `{"a":`, "well-formed"},
		{"two documents", `{} {}`, "nothing after"},
		{"garbage after", `{}x`, "nothing after"},
		{"name twice", `{"a":1,"a":2}`, "more than once"},
		{"name twice, one escaped", `{"a":1,"\u0061":2}`, "more than once"},
		{"name twice, deep", `{"x":[{"a":1,"a":{}}]}`, "more than once"},
		{"no UTF-8", "{\"a\":\"\xff\"}", "UTF-8"},
		{"first half", `{"a":"\ud83d"}`, "surrogate"},
		{"second half", `{"a":"\ude00"}`, "surrogate"},
		{"first half before another escape", `{"a":"\ud83d\n"}`, "surrogate"},
		{"deep", `{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "nested"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := dialect.ParseObject([]byte(row.body))
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("%v, want %q", err, row.want)
			}
		})
	}
}

func FuzzParseObject(f *testing.F) {
	f.Add([]byte(`{"metadata":{"a":"b"}}`))
	f.Add([]byte(`{"a":"\ud83d\ude00","b":[{"c":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := dialect.ParseObject(body)
		if (o == nil) == (err == nil) {
			t.Fatalf("%v and %v", o, err)
		}
		for name := range o {
			if _, err := (dialect.Object{name: o[name]}).Strings(); err == nil && strings.Contains(string(o[name]), `\ud83d"`) {
				t.Fatalf("half a pair passed: %s", o[name])
			}
		}
	})
}
