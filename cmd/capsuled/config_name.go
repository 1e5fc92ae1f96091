package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// sectionNames are the sections in their order.
func sectionNames() []string {
	var names []string
	for _, k := range keys {
		if !slices.Contains(names, k.section) {
			names = append(names, k.section)
		}
	}
	return names
}

func keysOf(section string) []key {
	var out []key
	for _, k := range keys {
		if k.section == section {
			out = append(out, k)
		}
	}
	return out
}

func namesOf(ks []key) []string {
	names := make([]string, len(ks))
	for i, k := range ks {
		names[i] = k.name
	}
	return names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// printable is a name from the file as it may go to a terminal.
func printable(name string) string {
	if nameForm.MatchString(name) && len(name) <= 64 {
		return name
	}
	return strconv.QuoteToASCII(name)
}

// visible is text that may go to a terminal: control characters are written as escapes.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// suggest ends a sentence about an unknown name: with the nearest known one when it is near, else with all.
func suggest(name string, known []string) string {
	best, bestAt := 3, ""
	for _, k := range known {
		if d := distance(strings.ToLower(name), k); d < best {
			best, bestAt = d, k
		}
	}
	if bestAt != "" {
		return "; did you mean " + bestAt + "?"
	}
	return "; known are " + strings.Join(known, ", ")
}

// distance is how many letters must be put in, taken out or changed to turn a into b.
func distance(a, b string) int {
	if len(a) > 64 { // no name of ours is that long, and the table below is as large as both
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
