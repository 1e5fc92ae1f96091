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

// links are the texts of links up to an image's id, from the opening brace, escaped: the same for all images of a page.
// Bodies are written by appending, since a page of images through maps and reflection costs many times as much. Every text
// of a record goes through appendString.
type links struct {
	self, bookmark, alternate  string
	serverSelf, serverBookmark string
}

func (c *call) links() *links {
	begin := func(rel, href string) string {
		b := appendString(append(appendString([]byte(`{"rel":`), rel), `,"href":`...), href)
		return string(b[:len(b)-1]) // open, for the id
	}
	here, unversioned := c.Base+c.prefix+c.projectPath(), c.Base+c.mount.bookmark+c.projectPath()
	return &links{
		self:           `,"links":[` + begin("self", here+"/images/"),
		bookmark:       `"},` + begin("bookmark", unversioned+"/images/"),
		alternate:      `"},` + begin("alternate", c.Base+"/image/images/"),
		serverSelf:     `,"links":[` + begin("self", here+"/servers/"),
		serverBookmark: `"},` + begin("bookmark", unversioned+"/servers/"),
	}
}

func reply(b []byte) dialect.Reply { return dialect.Reply{MediaType: mediaType, Body: b} }

// brief writes an image as a list has it that is not of details.
func (l *links) brief(b []byte, img *daemon.Image) []byte {
	return append(l.core(b, fieldsOf(img)), '}')
}

// core writes what every image has, and leaves the object open.
func (l *links) core(b []byte, f *fields) []byte {
	b = append(b, f.begin...)
	b = append(append(b, l.self...), f.id...)
	b = append(append(b, l.bookmark...), f.id...)
	b = append(append(b, l.alternate...), f.id...)
	return append(b, `","type":"application/vnd.openstack.image"}]`...)
}

// detail writes all that Nova has of an image, and nothing else: clients that check schemas refuse more.
func (l *links) detail(b []byte, img *daemon.Image) []byte {
	f := fieldsOf(img)
	b = append(l.core(b, f), f.before...)
	if img.SourceCapsule != "" {
		b = append(b, `,"server":{"id":"`...)
		from := len(b)
		b = appendEscaped(b, img.SourceCapsule)
		to := len(b)
		b = append(append(append(b, '"'), l.serverSelf...), b[from:to]...)
		b = append(append(b, l.serverBookmark...), b[from:to]...)
		b = append(b, `"}]}`...)
	}
	return append(b, f.after...)
}

// fields are the texts of what does not depend on how the caller reached this server. Most of what a page costs is to make
// them, so it is done once for an image.
type fields struct {
	id            []byte // escaped, without quotes
	begin         []byte // of the object: id and name
	before, after []byte // the link to the capsule, in an image of details
}

type fieldsKey struct{}

func fieldsOf(img *daemon.Image) *fields { return img.Derived(fieldsKey{}, encodeFields).(*fields) }

func encodeFields(img *daemon.Image) any {
	b := append(make([]byte, 0, 512), `{"id":"`...)
	from := len(b)
	b = appendEscaped(b, img.ID)
	to := len(b)
	b = append(b, `","name":`...)
	if img.Name == "" {
		b = append(b, `null`...)
	} else {
		b = appendString(b, img.Name)
	}
	begin := len(b)
	status, progress := statusOf(img)
	b = append(append(b, `,"status":"`...), status...)
	b = appendInt(append(b, `","progress":`...), int64(progress))
	b = appendTime(append(b, `,"created":`...), img.CreatedAt)
	b = appendTime(append(b, `,"updated":`...), img.UpdatedAt)
	b = appendInt(append(b, `,"minDisk":`...), int64(img.MinDiskGB))
	b = appendInt(append(b, `,"minRam":`...), int64(img.MinRAMMB))
	b = appendInt(append(b, `,"OS-EXT-IMG-SIZE:size":`...), img.FileBytes)
	if value, ok := img.Metadata["auto_disk_config"]; ok {
		b = appendString(append(b, `,"OS-DCF:diskConfig":`...), diskConfig(value))
	}
	before := len(b)
	b = append(appendItems(append(b, `,"metadata":`...), img.Metadata), '}')
	b = slices.Clone(b) // without what was too much
	return &fields{id: b[from:to], begin: b[:begin], before: b[begin:before], after: b[before:]}
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

// appendItems writes metadata, sorted by key. That of most images fits on the stack.
func appendItems(b []byte, items map[string]string) []byte {
	var few [16]item
	all := few[:0]
	for key, value := range items {
		all = append(all, item{key, value})
	}
	slices.SortFunc(all, func(a, b item) int { return strings.Compare(a.key, b.key) })
	b = append(b, '{')
	for i := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, all[i].key), ':')
		b = appendString(b, all[i].value)
	}
	return append(b, '}')
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
