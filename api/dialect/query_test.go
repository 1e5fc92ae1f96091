package dialect

import (
	"errors"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
)

// A semicolon parts nothing and breaks nothing, and comes back as it was in a link to the next page.
func TestParseQuery(t *testing.T) {
	for raw, want := range map[string]url.Values{
		"":              {},
		"a=1&b=2&a=3":   {"a": {"1", "3"}, "b": {"2"}},
		"a=1;b=2":       {"a": {"1;b=2"}},
		"a;b=2&c":       {"a;b": {"2"}, "c": {""}},
		";":             {";": {""}},
		"a=%3B;%26+%2B": {"a": {";;& +"}},
	} {
		got, err := ParseQuery(raw)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", raw, err, diff)
		}
		if again, err := ParseQuery(got.Encode()); err != nil || !cmp.Equal(got, again) {
			t.Errorf("%q came back as %q: %v", raw, got.Encode(), err)
		}
	}
	for _, raw := range []string{"a=%", "a=%zz", "%3", "a;=%;"} {
		got, err := ParseQuery(raw)
		if no, ok := errors.AsType[*Refusal](err); !ok || no.Code != daemon.Invalid || got != nil {
			t.Errorf("%q: %v, %v", raw, got, err)
		}
	}
}
