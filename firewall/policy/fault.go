package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fault is one thing wrong with a policy.
type Fault struct {
	Source string // the file, or "" for a policy that came from none
	Line   int    // 0 when it belongs to no line
	Text   string // what was wrong, and what would be right; safe to print
}

func (f Fault) String() string {
	switch {
	case f.Source == "":
		return f.Text
	case f.Line == 0:
		return f.Source + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.Source, f.Line, f.Text)
}

// Faults is the error of everything here that reads a policy: all that is wrong, in the order of the file. It is
// never empty.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// err is the faults as an error: sorted by file and line, each once; nil when there are none.
func (fs Faults) err() error {
	if len(fs) == 0 {
		return nil
	}
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Line, b.Line))
	})
	seen := map[Fault]bool{}
	return slices.DeleteFunc(fs, func(f Fault) bool {
		again := seen[f]
		seen[f] = true
		return again
	})
}

// quote makes text out of a file safe to print, and short.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		return strconv.Quote(s[:longest]) + "..."
	}
	return strconv.Quote(s)
}
