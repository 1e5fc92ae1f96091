package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The name of a file is somebody's text too.
func TestNameOfAPolicyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a\x1b[2J.toml")
	if err := os.WriteFile(file, []byte("dsn = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", file}, {"explain", "--file", file, "icmp to host"}, {"check", file + "x"}, {"check", "--json", file}} {
		var out, errs strings.Builder
		status := run(t.Context(), append([]string{"policy"}, args...), nil, &out, &errs)
		text := out.String() + errs.String()
		if status != exitOther || strings.Contains(text, "\x1b") || !strings.Contains(text, "[2J") {
			t.Errorf("%q: status %d, %q", args, status, text)
		}
	}
}
