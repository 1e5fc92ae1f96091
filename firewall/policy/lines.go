package policy

import (
	"strconv"
	"strings"
)

// lines says on which line of a TOML document each key, each header and each item of a list stands. The decoder
// tells positions only for the last of several tables of one name, and rules are such tables. A document that is not
// TOML gives lines of no meaning, and no more than that: values never come from here.
type lines map[string]int

// path joins the parts of a key, none of which can hold a NUL.
func path(parts ...string) string { return strings.Join(parts, "\x00") }

// scanLines reads a document. The n-th table of an array of tables is the path NAME, n; the n-th item of a list is
// the path of its key, n. deep is the line on which brackets, or the parts of a key, are nested deeper than deepest; 0
// when they are not. The decoder would follow them as deep as they go, at a cost that grows with their square.
func scanLines(text string) (at lines, deep int) {
	s := scanner{text: text, line: 1, at: lines{}, tables: map[string]int{}}
	for s.skipBlank(); s.i < len(s.text) && s.deep == 0; s.skipBlank() {
		if s.text[s.i] == '[' {
			s.header()
		} else {
			s.statement()
		}
	}
	return s.at, s.deep
}

const deepest = 16

type scanner struct {
	text    string
	i, line int
	deep    int            // see scanLines
	section string         // the path of the table that statements are in
	tables  map[string]int // how many tables of each name there were
	at      lines
}

func (s *scanner) peek() byte {
	if s.i < len(s.text) {
		return s.text[s.i]
	}
	return '\n'
}

func (s *scanner) next() {
	if s.i < len(s.text) {
		if s.text[s.i] == '\n' {
			s.line++
		}
		s.i++
	}
}

// skipBlank passes white space and comments.
func (s *scanner) skipBlank() {
	for s.i < len(s.text) {
		switch s.text[s.i] {
		case ' ', '\t', '\r', '\n':
			s.next()
		case '#':
			s.skipLine()
		default:
			return
		}
	}
}

func (s *scanner) skipLine() {
	for s.i < len(s.text) && s.text[s.i] != '\n' {
		s.i++
	}
}

// header reads "[name]" or "[[name]]".
func (s *scanner) header() {
	line, array := s.line, strings.HasPrefix(s.text[s.i:], "[[")
	for s.peek() == '[' {
		s.next()
	}
	s.section = s.key(']')
	if array {
		n := s.tables[s.section]
		s.tables[s.section]++
		s.section = path(s.section, strconv.Itoa(n))
	}
	s.at[s.section] = line
	s.skipLine()
}

// statement reads "key = value".
func (s *scanner) statement() {
	line, key := s.line, s.key('=')
	if s.section != "" {
		key = path(s.section, key)
	}
	s.at[key] = line
	for i := strings.LastIndexByte(key, 0); i > len(s.section) && s.deep == 0; i = strings.LastIndexByte(key[:i], 0) {
		if s.at[key[:i]] == 0 { // a table that a dotted key made
			s.at[key[:i]] = line
		}
	}
	if s.peek() == '=' {
		s.next()
	}
	s.value(key)
}

// key reads the parts of a key up to a byte that ends it, or to the end of the line.
func (s *scanner) key(end byte) string {
	var parts []string
	var part strings.Builder
	for c := s.peek(); c != end && c != '\n'; c = s.peek() {
		switch c {
		case '"', '\'':
			part.WriteString(s.quoted())
		case '.':
			parts = append(parts, part.String())
			part.Reset()
			s.next()
		case ' ', '\t', '\r':
			s.next()
		default:
			part.WriteByte(c)
			s.next()
		}
	}
	s.depth(len(parts))
	return path(append(parts, part.String())...)
}

// quoted passes a string and says what it holds.
func (s *scanner) quoted() string {
	c, start := s.text[s.i], s.i
	mark := s.text[s.i : s.i+1]
	if triple := strings.Repeat(mark, 3); strings.HasPrefix(s.text[s.i:], triple) {
		mark = triple
	}
	for range mark {
		s.next()
	}
	for s.i < len(s.text) && !strings.HasPrefix(s.text[s.i:], mark) {
		if c == '"' && s.text[s.i] == '\\' {
			s.next()
		} else if len(mark) == 1 && s.text[s.i] == '\n' {
			break
		}
		s.next()
	}
	for range mark {
		if s.peek() == c {
			s.next()
		}
	}
	for len(mark) == 3 && s.i < len(s.text) && s.text[s.i] == c { // up to two more quotes belong to the string
		s.next()
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(s.text[start:s.i], mark), mark)
	if text, err := strconv.Unquote(`"` + inner + `"`); c == '"' && err == nil {
		return text
	}
	return inner
}

// depth notes a depth when it is the first that is too deep.
func (s *scanner) depth(n int) {
	if n > deepest && s.deep == 0 {
		s.deep = s.line
	}
}

// value passes a value, and notes where each item of a list begins.
func (s *scanner) value(key string) {
	depth, item, fresh := 0, 0, false
	for s.i < len(s.text) {
		c := s.text[s.i]
		if fresh && !strings.ContainsRune(" \t\r\n#,]", rune(c)) {
			s.at[path(key, strconv.Itoa(item))] = s.line
			item, fresh = item+1, false
		}
		switch c {
		case '"', '\'':
			s.quoted()
			continue
		case '#':
			s.skipLine()
			continue
		case '[', '{':
			depth++
			s.depth(depth)
			fresh = depth == 1
		case ']', '}':
			depth--
		case ',':
			fresh = fresh || depth == 1
		case '\n':
			if depth <= 0 {
				return
			}
		}
		s.next()
	}
}
