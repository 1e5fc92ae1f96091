package api_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConformance wants every test that docs/images-api.md names to be in the package that it names, and the row of a
// table test among that package's sources. A name of a row may end in *, for all that begin so.
func TestConformance(t *testing.T) {
	text, err := os.ReadFile("../docs/images-api.md")
	if err != nil {
		t.Fatal(err)
	}
	short := map[string]string{"e2e": "internal/e2e"}
	read := map[string]string{} // the tests of a package
	sources := func(room string) string {
		if long := short[room]; long != "" {
			room = long
		}
		if read[room] == "" {
			files, err := filepath.Glob(filepath.Join("..", room, "*_test.go"))
			if err != nil || len(files) == 0 {
				t.Errorf("no tests in %s: %v", room, err)
			}
			for _, f := range files {
				source, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				read[room] += string(source)
			}
		}
		return read[room]
	}
	section := regexp.MustCompile("^## .*\\(package `([a-z/]+)`\\)")
	named := regexp.MustCompile("`(?:([a-z0-9/]+)\\.)?((?:Test|Fuzz)[A-Z]\\w*)(?:/([^`]+))?`")
	all := regexp.MustCompile(`(Test|Fuzz)[A-Z]\w*`)
	room, n := "", 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "## ") {
			room = ""
			if m := section.FindStringSubmatch(line); m != nil {
				room = m[1]
			}
		}
		found := named.FindAllStringSubmatch(line, -1)
		if got := len(all.FindAllString(line, -1)); got != len(found) && !strings.Contains(line, "TestVector...") {
			t.Errorf("%d of %d names of tests are in quotes of their own: %s", len(found), got, line)
		}
		for _, m := range found {
			n++
			in := room
			if m[1] != "" {
				in = m[1]
			}
			if in == "" || !strings.Contains(sources(in), "\nfunc "+m[2]+"(") {
				t.Errorf("there is no test %s in %q", m[2], in)
			}
			row, prefix := strings.CutSuffix(strings.ReplaceAll(m[3], "_", " "), "*")
			if !prefix {
				row += `"`
			}
			if m[3] != "" && !strings.Contains(sources(in), `"`+row) {
				t.Errorf("%s in %s has no row %q", m[2], in, m[3])
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d tests are named", n)
	}
}
