package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The real go test on small modules: its events are the contract.
func TestRun(t *testing.T) {
	const head = "package x\nimport \"testing\"\n"
	for _, row := range []struct {
		name, source string
		code         int
		want         []string
		never        string
	}{
		{
			name:   "pass",
			source: head + `func TestA(t *testing.T) { t.Log("quiet"); t.Run("b", func(*testing.T) {}) }`,
			want:   []string{"ok ", "2 tests", "\n2 passed, 0 failed\n"}, never: "quiet",
		},
		{
			name: "fail",
			source: head + `func TestA(t *testing.T) { t.Run("b", func(t *testing.T) { t.Error("loud") }) }
				func TestB(t *testing.T) { t.Log("quiet") }`,
			code: 1,
			want: []string{"loud", "--- FAIL: TestA/b", "FAIL ", "3 tests, 2 failed", "\n1 passed, 2 failed\n"}, never: "quiet",
		},
		{
			name:   "panic",
			source: head + `func TestA(t *testing.T) {}; func TestB(t *testing.T) { panic("at the disco") }`,
			code:   1,
			want:   []string{"at the disco", "\n1 passed, 1 failed\n"},
		},
		{
			name:   "exit",
			source: head + "import \"os\"\nfunc TestA(t *testing.T) { println(\"gone\"); os.Exit(3) }",
			code:   1,
			want:   []string{"gone", "\n0 passed, 1 failed\n"},
		},
		{
			name:   "does not compile",
			source: head + `func TestA(t *testing.T) { nonsense }`,
			code:   1,
			want:   []string{"undefined: nonsense", "FAIL ", "\n0 passed, 1 failed\n"},
		},
		{
			name:   "vet",
			source: head + "import \"fmt\"\nfunc TestA(t *testing.T) { fmt.Printf(\"%d\", \"x\") }",
			code:   1,
			want:   []string{"wrong type string", "FAIL ", "\n0 passed, 1 failed\n"},
		},
		{
			name:   "skip",
			source: head + `func TestA(t *testing.T) { t.SkipNow() }`,
			want:   []string{"1 skipped", "\n0 passed, 0 failed\n"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "go.mod"), "module x\n\ngo 1.26\n")
			write(t, filepath.Join(dir, "x_test.go"), row.source)
			t.Chdir(dir)
			t.Setenv("GOFLAGS", "")
			var out, stderr bytes.Buffer
			if code := run([]string{"./..."}, &out, &stderr); code != row.code {
				t.Errorf("exit code %d, want %d", code, row.code)
			}
			for _, w := range row.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q", w)
				}
			}
			if row.never != "" && strings.Contains(out.String(), row.never) {
				t.Errorf("%q is of no interest", row.never)
			}
			if t.Failed() {
				t.Log(out.String(), stderr.String())
			}
		})
	}
}

func TestRunWithoutPackages(t *testing.T) {
	var out, stderr bytes.Buffer
	if code := run([]string{"./no-such-directory"}, &out, &stderr); code != 1 || !strings.Contains(out.String(), "\n0 passed, 1 failed\n") {
		t.Errorf("exit code %d:\n%s", code, out.String())
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
