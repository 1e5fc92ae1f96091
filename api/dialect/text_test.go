package dialect_test

import (
	"testing"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// What a dialect shows goes out as JSON that nobody escaped for HTML, one image after another.
func TestText(t *testing.T) {
	text := dialect.NewText(func(i daemon.Image) any { return map[string]string{"id": i.ID, "name": i.Name} })
	got := string(text.AppendList([]byte(`{"images":`), []*daemon.Image{{ID: "1", Name: `<"&>`}, {ID: "2"}}))
	if want := `{"images":[{"id":"1","name":"<\"&>"},{"id":"2","name":""}]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := string(text.AppendList(nil, nil)); got != "[]" {
		t.Errorf("none: %s", got)
	}
}
