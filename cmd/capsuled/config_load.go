package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// LoadConfig reads the file at path over DefaultConfig. The path "" means DefaultConfigPath, which may be absent.
// The error is of type Faults and names everything that is wrong, each fault with its line. Files that the
// configuration names (certificates, keys, secrets) are looked at, and nothing is changed.
//
// With an error the Config has what could be read, and the defaults for the rest: too little to serve with, and enough
// for a host to be closed.
func LoadConfig(path string) (Config, error) {
	named := path != ""
	if !named {
		path = DefaultConfigPath
	}
	data, err := readFile(path, maxConfigBytes, othersWrite)
	switch {
	case err == nil:
		return parseConfig(path, data)
	case !named && errors.Is(err, fs.ErrNotExist):
		return parseConfig("defaults", nil)
	}
	return DefaultConfig(), Faults{{File: path, Text: "the configuration file " + err.Error()}}
}

// parseConfig is LoadConfig for bytes that were read already; name is for the faults.
func parseConfig(name string, data []byte) (Config, error) {
	p := parser{file: name, config: DefaultConfig(), lines: map[string]int{}, bad: map[string]bool{}}
	var top map[string]toml.Primitive
	meta, err := toml.Decode(string(data), &top)
	if err != nil {
		return p.config, Faults{syntaxFault(name, err)}
	}
	p.meta = meta
	for _, section := range sortedKeys(top) {
		p.section(section, top[section])
	}
	p.relate()
	if len(p.faults) > 0 {
		return p.config, p.faults.sorted()
	}
	return p.config, nil
}

// parser collects what one file says, and its faults.
type parser struct {
	file   string
	meta   toml.MetaData
	config Config
	lines  map[string]int  // "section.key" -> line, for keys that the file has
	bad    map[string]bool // keys that have a fault of their own
	faults Faults
}

func (p *parser) fault(line int, key, format string, args ...any) {
	p.faults = append(p.faults, Fault{File: p.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// section reads one top-level table. Every key is decoded alone, so that one fault does not hide the next.
func (p *parser) section(section string, value toml.Primitive) {
	known := keysOf(section)
	line := p.line(value)
	var raw any
	var table map[string]toml.Primitive
	err := errors.Join(p.meta.PrimitiveDecode(value, &raw), p.meta.PrimitiveDecode(value, &table))
	if _, ok := raw.(map[string]any); !ok || err != nil { // the decoder takes what is no table for an empty one
		p.notTable(section, line, len(known) > 0)
		return
	}
	if len(known) == 0 {
		p.fault(cmp.Or(line, p.firstLine(table)), printable(section), "unknown section%s", suggest(section, sectionNames()))
		return
	}
	for _, name := range sortedKeys(table) {
		full := section + "." + name
		at := p.line(table[name])
		i := slices.IndexFunc(known, func(k key) bool { return k.name == name })
		if i < 0 {
			p.fault(at, section+"."+printable(name), "unknown key%s", suggest(name, namesOf(known)))
			continue
		}
		var raw any
		err := p.meta.PrimitiveDecode(table[name], &raw)
		if err == nil {
			p.lines[full] = at
			err = known[i].fill(&p.config, raw)
		}
		if err != nil {
			p.bad[full] = true
			p.fault(at, full, "%v", err)
		}
	}
}

// notTable explains a top-level name that is no table: a key without its section, or a section given as a value.
func (p *parser) notTable(name string, line int, section bool) {
	if section {
		p.fault(line, name, "is a section; want [%s] on a line of its own", name)
		return
	}
	for _, k := range keys {
		if k.name == name {
			p.fault(line, name, "stands outside of a section; want it below [%s]", k.section)
			return
		}
	}
	p.fault(line, printable(name), "unknown key, and outside of a section; sections are %s", strings.Join(sectionNames(), ", "))
}

// errLine stops the decoder where a value stands.
var errLine = errors.New("line wanted")

// lineProbe makes the decoder say where a value is: it tells positions in errors only.
type lineProbe struct{}

func (*lineProbe) UnmarshalTOML(any) error { return errLine }

// line is the line of a value; 0 for a table that only dotted keys or sub-tables made.
func (p *parser) line(value toml.Primitive) int {
	err := p.meta.PrimitiveDecode(value, &lineProbe{})
	if at, ok := errors.AsType[toml.ParseError](err); ok {
		return at.Position.Line
	}
	return 0
}

// firstLine is the first line of what a table holds.
func (p *parser) firstLine(table map[string]toml.Primitive) int {
	first := 0
	for _, v := range table {
		if l := p.line(v); l > 0 && (first == 0 || l < first) {
			first = l
		}
	}
	return first
}

func syntaxFault(file string, err error) Fault {
	if at, ok := errors.AsType[toml.ParseError](err); ok {
		return Fault{File: file, Line: at.Position.Line, Text: "not TOML: " + visible(at.Message)}
	}
	return Fault{File: file, Text: "not TOML: " + visible(err.Error())}
}
