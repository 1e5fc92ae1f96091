package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/firewall/policy"
)

// uncommented is a shipped file with its examples in force.
func uncommented(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("shipped/" + name + ".toml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "# ") {
			lines[i] = l[1:]
		}
	}
	return strings.Join(lines, "\n")
}

func TestLoadDirShipped(t *testing.T) {
	loaded, err := policy.LoadDir(filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range policy.ShippedNames() {
		p, _ := policy.Shipped(name)
		if d := cmp.Diff(policy.Loaded{Policy: p}, loaded[name]); d != "" {
			t.Error(d)
		}
	}
	if len(loaded) != len(policy.ShippedNames()) {
		t.Errorf("%d policies", len(loaded))
	}
}

// A secure policy in each format.
const (
	closed = "secure = true\n"
	fw     = "*filter\n-A FORWARD -d 192.0.2.1 -p tcp --dport 443 -j ACCEPT\nCOMMIT\n"
)

// made puts something into a directory.
type made = func(t *testing.T, dir string)

func write(name, text string, mode os.FileMode) made {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadDir(t *testing.T) {
	for _, tt := range []struct {
		name string
		make []made
		want []string
	}{
		{"a file of each kind", []made{write("secure.toml", closed, 0o644), write("secure-admin.fw", fw, 0o600)}, nil},
		{"other files", []made{write("README", "x", 0o666), write("secure.toml~", "x", 0o644), write(".x.toml", "x", 0o644)}, nil},
		{"both kinds of one", []made{write("secure.toml", closed, 0o644), write("secure.fw", fw, 0o644)},
			[]string{"secure.toml: secure.fw is there too"}},
		{"unknown name", []made{write("secure-user.fw", fw, 0o644)},
			[]string{"secure-user.fw: no policy is called \"secure-user\": want maintenance, secure, secure-full, secure-admin"}},
		{"faults of all files", []made{write("secure.toml", "x=1\n", 0o644), write("secure-full.toml", "secure=true\nssh=true\n", 0o644)},
			[]string{"secure.toml:1: unknown key", "secure-full.toml:2: ssh = true"}},
		{"not secure", []made{write("secure.toml", "", 0o644)}, []string{"want secure = true"}},
		{"open at the end", []made{write("secure.fw", "*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n", 0o644)}, []string{"no ACCEPT of everything"}},
		{"others write", []made{write("secure.toml", closed, 0o646)}, []string{"secure.toml: mode 0646 lets others write it"}},
		{"group writes", []made{write("secure.toml", closed, 0o664)}, []string{"want chmod go-w"}},
		{"others write the directory", []made{func(t *testing.T, dir string) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}}, []string{"the directory of policies: mode 0777"}},
		{"link", []made{write("x", closed, 0o644), func(t *testing.T, dir string) {
			if err := os.Symlink("x", filepath.Join(dir, "secure.toml")); err != nil {
				t.Fatal(err)
			}
		}}, []string{"secure.toml: not a regular file"}},
		{"FIFO", []made{func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "secure.toml"), 0o600); err != nil {
				t.Fatal(err)
			}
		}}, []string{"secure.toml: not a regular file"}},
		{"owned by another", []made{write("secure.toml", closed, 0o644), func(t *testing.T, dir string) {
			if err := os.Chown(filepath.Join(dir, "secure.toml"), 12345, 0); err != nil {
				t.Fatal(err)
			}
		}}, []string{"secure.toml: owned by user 12345"}},
		{"too large", []made{write("secure.toml", strings.Repeat("#", 1<<20+1), 0o644)}, []string{"the file has 1048577 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, m := range tt.make {
				m(t, dir)
			}
			loaded, err := policy.LoadDir(dir)
			if err == nil && len(loaded) != len(policy.ShippedNames()) || err != nil && loaded != nil {
				t.Errorf("%d policies with error %v", len(loaded), err)
			}
			if len(tt.want) == 0 {
				wantFault(t, err, "")
			}
			for _, want := range tt.want {
				wantFault(t, err, want)
			}
		})
	}
}

func TestLoadDirOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := policy.LoadDir(path)
	wantFault(t, err, "cannot be read: not a directory")
}
