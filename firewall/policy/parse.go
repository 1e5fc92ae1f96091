package policy

import (
	"fmt"
	"path/filepath"
)

// Loaded is a policy and what its reader should know of it.
type Loaded struct {
	Policy
	Warnings []string // as "SOURCE:LINE: text"; what a file of the original says and means otherwise here
}

// Parse reads a policy by the extension of its file: .toml with [ParseTOML], .fw with [ParseFW].
func Parse(source string, text []byte) (Loaded, error) {
	switch filepath.Ext(source) {
	case ".toml":
		p, err := ParseTOML(source, text)
		return Loaded{Policy: p}, err
	case ".fw":
		return ParseFW(source, text)
	}
	return Loaded{}, Faults{{source, 0, fmt.Sprintf("the extension %s: want .toml or .fw", quote(filepath.Ext(source)))}}
}
