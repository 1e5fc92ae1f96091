package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModel wants a line for each of the 40 rows of the isolation contract, and the tests that it names to be.
func TestThreatModel(t *testing.T) {
	text, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{} // "room TestName"
	rows := map[string]bool{}  // "row 01"
	for _, a := range attacks {
		rows[fmt.Sprintf("row %02d", a.row)] = true
	}
	files, err := filepath.Glob("../../*/*_test.go")
	mine, err2 := filepath.Glob("*_test.go")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	function, subtest := regexp.MustCompile(`(?m)^func (Test\w+)\(`), regexp.MustCompile(`t\.Run\("(row [0-9, ]+):`)
	for _, f := range append(files, mine...) {
		source, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		room := "e2e"
		if strings.HasPrefix(f, "../../") {
			room = filepath.Base(filepath.Dir(f))
		}
		for _, m := range function.FindAllSubmatch(source, -1) {
			tests[room+" "+string(m[1])] = true
		}
		for _, m := range subtest.FindAllSubmatch(source, -1) {
			for n := range strings.SplitSeq(strings.TrimPrefix(string(m[1]), "row "), ", ") {
				rows["row "+n] = true
			}
		}
	}
	lines := 0
	test, row := regexp.MustCompile("(?:([a-z0-9]+) )?`(Test\\w+)`"), regexp.MustCompile(`row \d\d`)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, fmt.Sprintf("| %d |", lines+1)) {
			continue
		}
		lines++
		room := ""
		for _, m := range test.FindAllStringSubmatch(line, -1) {
			if m[1] != "" {
				room = m[1]
			}
			if !tests[room+" "+m[2]] {
				t.Errorf("row %d: there is no test %s in %s", lines, m[2], room)
			}
		}
		for _, r := range row.FindAllString(line, -1) {
			if !rows[r] {
				t.Errorf("row %d: there is no %s", lines, r)
			}
		}
	}
	if lines != 40 {
		t.Errorf("it stops after row %d", lines)
	}
}
