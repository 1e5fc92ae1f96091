package synnefo

import (
	"bytes"
	"encoding/xml"
)

// Namespaces of the documents (images contract, sections 5.6 and 8).
const (
	computeNS = "http://docs.openstack.org/compute/api/v1.1"
	commonNS  = "http://docs.openstack.org/common/api/v1.0"
	atomNS    = "http://www.w3.org/2005/Atom"
)

// markup is an XML document that is being written. encoding/xml has its own mind about prefixes and empty elements; its
// escaping is what is used here.
type markup struct {
	buf  bytes.Buffer
	tag  bool // a start tag has no end yet
	text []byte
}

// marked is a whole document.
func marked(write func(*markup)) []byte {
	var m markup
	m.buf.WriteString(xml.Header)
	write(&m)
	return m.buf.Bytes()
}

// open begins an element. Attributes are pairs of name and value; names are ours.
func (m *markup) open(name string, attributes ...string) {
	m.endTag()
	m.buf.WriteByte('<')
	m.buf.WriteString(name)
	m.tag = true
	for i := 0; i+1 < len(attributes); i += 2 {
		m.attribute(attributes[i], attributes[i+1])
	}
}

// attribute adds one to the element that was just begun.
func (m *markup) attribute(name, value string) {
	m.buf.WriteByte(' ')
	m.buf.WriteString(name)
	m.buf.WriteString(`="`)
	m.escape(value)
	m.buf.WriteByte('"')
}

// close ends an element. One that has nothing in it is written as one tag.
func (m *markup) close(name string) {
	if m.tag {
		m.tag = false
		m.buf.WriteString("/>")
		return
	}
	m.buf.WriteString("</")
	m.buf.WriteString(name)
	m.buf.WriteByte('>')
}

// element is an element with nothing but text in it.
func (m *markup) element(name, text string, attributes ...string) {
	m.open(name, attributes...)
	if text != "" {
		m.endTag()
		m.escape(text)
	}
	m.close(name)
}

func (m *markup) endTag() {
	if m.tag {
		m.tag = false
		m.buf.WriteByte('>')
	}
}

// escape writes text of anybody's making. What XML 1.0 cannot carry becomes U+FFFD; white space that a parser would
// change is written as a reference.
func (m *markup) escape(s string) {
	m.text = append(m.text[:0], s...)
	_ = xml.EscapeText(&m.buf, m.text) // a buffer takes everything
}
