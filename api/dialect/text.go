package dialect

import (
	"bytes"
	"encoding/json"

	"github.com/capsuled/capsuled/daemon"
)

// Text is how a dialect shows an image in JSON. It is made once for each image that the catalog has, and kept with it: a
// page through maps and reflection costs many times what it costs to send. Its methods may be called at the same time.
type Text struct{ shown func(daemon.Image) any }

// NewText is for a package's variable: every Text keeps its own texts. What shown returns must depend on the image alone,
// and be of texts, numbers, lists and maps.
func NewText(shown func(daemon.Image) any) *Text { return &Text{shown} }

// AppendList appends images as a JSON array.
func (t *Text) AppendList(b []byte, images []*daemon.Image) []byte {
	b = append(b, '[')
	for n, i := range images {
		if n > 0 {
			b = append(b, ',')
		}
		b = append(b, i.Derived(t, t.encode).([]byte)...)
	}
	return append(b, ']')
}

// encode leaves out the escapes for HTML: nothing that is sent is HTML, and they make six bytes of one, which are kept.
func (t *Text) encode(i *daemon.Image) any {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(t.shown(*i)); err != nil {
		panic(err) // a programmer's error
	}
	return bytes.Clone(bytes.TrimSuffix(b.Bytes(), []byte("\n"))) // without what the buffer has to spare
}
