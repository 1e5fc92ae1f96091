package nova

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// writer writes a body by appending, since a page of images through maps and reflection costs many times as much. Every
// text of a record goes through text or escaped.
type writer struct {
	b []byte

	// Links up to the id, from the opening brace, escaped: the same for all images of a page.
	self, bookmark, alternate  string
	serverSelf, serverBookmark string
}

// writer returns a writer for so many images of about each bytes.
func (c *call) writer(images, each int) *writer {
	begin := func(rel, href string) string {
		b := appendString(append(appendString([]byte(`{"rel":`), rel), `,"href":`...), href)
		return string(b[:len(b)-1]) // open, for the id
	}
	here, unversioned := c.Base+c.prefix+c.projectPath(), c.Base+c.mount.bookmark+c.projectPath()
	return &writer{
		b:              make([]byte, 0, 256+images*each),
		self:           begin("self", here+"/images/"),
		bookmark:       begin("bookmark", unversioned+"/images/"),
		alternate:      begin("alternate", c.Base+"/image/images/"),
		serverSelf:     begin("self", here+"/servers/"),
		serverBookmark: begin("bookmark", unversioned+"/servers/"),
	}
}

func (w *writer) reply() dialect.Reply { return dialect.Reply{MediaType: mediaType, Body: w.b} }

func (w *writer) raw(s string)     { w.b = append(w.b, s...) }
func (w *writer) text(s string)    { w.b = appendString(w.b, s) }
func (w *writer) number(n int64)   { w.b = appendInt(w.b, n) }
func (w *writer) time(t time.Time) { w.b = appendTime(w.b, t) }

// link writes one link; from and to are where the id is in what is written already, so that it is escaped once.
func (w *writer) link(open string, from, to int, end string) {
	w.b = append(w.b, open...)
	w.b = append(w.b, w.b[from:to]...)
	w.b = append(w.b, end...)
}

// id writes an id, and tells where it is between its quotes.
func (w *writer) id(id string) (from, to int) {
	from = len(w.b) + 1
	w.text(id)
	return from, len(w.b) - 1
}

// brief writes an image as a list has it that is not of details.
func (w *writer) brief(img *daemon.Image) {
	w.raw(`{`)
	w.core(img)
	w.raw(`}`)
}

func (w *writer) core(img *daemon.Image) {
	w.raw(`"id":`)
	from, to := w.id(img.ID)
	w.raw(`,"name":`)
	if img.Name == "" {
		w.raw(`null`)
	} else {
		w.text(img.Name)
	}
	w.raw(`,"links":[`)
	w.link(w.self, from, to, `"},`)
	w.link(w.bookmark, from, to, `"},`)
	w.link(w.alternate, from, to, `","type":"application/vnd.openstack.image"}]`)
}

// detail writes all that Nova has of an image, and nothing else: clients that check schemas refuse more.
func (w *writer) detail(img *daemon.Image) {
	status, progress := statusOf(img)
	w.raw(`{`)
	w.core(img)
	w.raw(`,"status":"`)
	w.raw(status)
	w.raw(`","progress":`)
	w.number(int64(progress))
	w.raw(`,"created":`)
	w.time(img.CreatedAt)
	w.raw(`,"updated":`)
	w.time(img.UpdatedAt)
	w.raw(`,"minDisk":`)
	w.number(int64(img.MinDiskGB))
	w.raw(`,"minRam":`)
	w.number(int64(img.MinRAMMB))
	w.raw(`,"OS-EXT-IMG-SIZE:size":`)
	w.number(img.FileBytes)
	if value, ok := img.Metadata["auto_disk_config"]; ok {
		w.raw(`,"OS-DCF:diskConfig":`)
		w.text(diskConfig(value))
	}
	if img.SourceCapsule != "" {
		w.raw(`,"server":{"id":`)
		from, to := w.id(img.SourceCapsule)
		w.raw(`,"links":[`)
		w.link(w.serverSelf, from, to, `"},`)
		w.link(w.serverBookmark, from, to, `"}]}`)
	}
	w.raw(`,"metadata":`)
	w.items(img.Metadata)
	w.raw(`}`)
}

// statusOf is a state as it is shown (images contract, section 3).
func statusOf(img *daemon.Image) (status string, progress int) {
	switch img.State {
	case daemon.ImageActive:
		return "ACTIVE", 100
	case daemon.ImagePending:
		if !img.Arrived {
			return "SAVING", 25 // glance's "queued"
		}
		return "SAVING", 50
	case daemon.ImageDeletePending, daemon.ImageDeleted:
		return "DELETED", 0
	case daemon.ImageError:
		return "ERROR", 0
	}
	return "UNKNOWN", 0
}

// diskConfig reads a truth as Nova does.
func diskConfig(value string) string {
	for _, yes := range [...]string{"1", "t", "true", "on", "y", "yes"} {
		if strings.EqualFold(value, yes) {
			return "AUTO"
		}
	}
	return "MANUAL"
}

type item struct{ key, value string }

// items writes metadata, sorted by key. Those of most images fit on the stack.
func (w *writer) items(items map[string]string) {
	var few [16]item
	all := few[:0]
	for key, value := range items {
		all = append(all, item{key, value})
	}
	slices.SortFunc(all, func(a, b item) int { return strings.Compare(a.key, b.key) })
	w.raw(`{`)
	for i := range all {
		if i > 0 {
			w.raw(`,`)
		}
		w.text(all[i].key)
		w.raw(`:`)
		w.text(all[i].value)
	}
	w.raw(`}`)
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// appendTime writes a time in UTC to the second, with the part of a second cut off.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339)
	return append(b, '"')
}

// appendString writes a string as encoding/json does without its escapes for HTML.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, '"')
}

// plain are the bytes that stand for themselves.
var plain = func() (p [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		p[c] = c != '"' && c != '\\'
	}
	return p
}()

// appendEscaped writes what is between a string's quotes. What is no UTF-8 becomes the replacement character.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	done := 0
	for at := 0; at < len(s); {
		c := s[at]
		if plain[c] {
			at++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[done:at]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, '\\', 'b')
			case '\f':
				b = append(b, '\\', 'f')
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			at++
			done = at
			continue
		}
		r, size := utf8.DecodeRuneInString(s[at:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[done:at]...), `\ufffd`...)
			done = at + size
		case r == '\u2028' || r == '\u2029': // ends of lines to JavaScript
			b = append(append(b, s[done:at]...), '\\', 'u', '2', '0', '2', hex[r&15])
			done = at + size
		}
		at += size
	}
	return append(b, s[done:]...)
}
