package main

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/imagestore"
)

var cmpConfig = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask has no say
		t.Fatal(err)
	}
	return path
}

func TestEmptyFileIsDefault(t *testing.T) {
	got, err := LoadConfig(writeFile(t, "capsuled.toml", "", 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultConfig(), got, cmpConfig); d != "" {
		t.Error(d)
	}
}

// TestNamedFileMustExist: only the default path may be absent.
func TestNamedFileMustExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	_, err := LoadConfig(path)
	want := path + `: the configuration file is "` + path + `", which cannot be read: no such file or directory`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestFilesThatAreNotRead(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, path, want string }{
		{"a directory", dir, "not a regular file"},
		{"open to everybody", writeFile(t, "c.toml", "", 0o666), "lets everybody in"},
		{"too large", writeFile(t, "c.toml", strings.Repeat("#\n", maxConfigBytes), 0o644), "at most 1048576 are read"},
		{"a device that never ends", "/dev/zero", "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := LoadConfig(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestExample: the example names every key, and says what the defaults are.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../docs/capsuled.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig("example", data); err != nil {
		t.Errorf("as it is: %v", err)
	}
	plain := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAll(data, []byte("$1"))
	got, err := parseConfig("example", plain)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultConfig(), got, cmpConfig); d != "" {
		t.Error(d)
	}
	for _, k := range keys {
		if n := len(regexp.MustCompile(`(?m)^`+k.name+` = `).FindAll(plain, -1)); n < 1 {
			t.Errorf("%s is not in the example", k)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^[a-z_]+ = `).FindAll(plain, -1)); n != len(keys) {
		t.Errorf("the example has %d keys, the format %d", n, len(keys))
	}
}

// TestReference: docs/configuration.md has a row for each key, and none for a key that is not there.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, m := range regexp.MustCompile("(?m)^(?:## \\[([a-z]+)\\]|\\| `([a-z_]+)` \\|)").FindAllStringSubmatch(string(data), -1) {
		got = append(got, m[1]+m[2])
	}
	section := ""
	for _, k := range keys {
		if k.section != section {
			section = k.section
			want = append(want, section)
		}
		want = append(want, k.name)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEveryKey(t *testing.T) {
	data, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseConfig("full.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys { // a key that changes nothing is a key that is not wired
		if k.show(got) == k.show(DefaultConfig()) && k.String() != "api.tls_cert" && k.String() != "api.tls_key" &&
			k.String() != "api.client_ca" && k.String() != "auth.jwt_secret_file" && k.String() != "identity.users_file" { // files: TestTLSAndSecretFiles
			t.Errorf("%s = %s is the default still", k, k.show(got))
		}
	}
	var text bytes.Buffer
	if err := got.WriteTOML(&text); err != nil {
		t.Fatal(err)
	}
	again, err := parseConfig("again", text.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, again, cmpConfig); d != "" {
		t.Error(d)
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		want       options
		err        string
	}{
		{"none", "", options{}, ""},
		{"all", "-config /c.toml -check-config -version", options{ConfigPath: "/c.toml", CheckConfig: true, Version: true}, ""},
		{"two dashes", "--config=/c.toml", options{ConfigPath: "/c.toml"}, ""},
		{"fence", "-fence -config /c.toml", options{ConfigPath: "/c.toml", Fence: true}, ""},
		{"fence and check", "-fence -check-config", options{}, "give one of them"},
		{"empty file", "-config=", options{}, "-config wants the name of a file"},
		{"unknown", "-frobnicate", options{}, "flag provided but not defined"},
		{"argument", "-version now", options{}, `unexpected argument "now"`},
		{"help", "-h", options{}, flag.ErrHelp.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			got, err := parseFlags(strings.Fields(tt.args), &stderr)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
			if err != nil && !strings.Contains(stderr.String(), "usage: capsuled") {
				t.Errorf("no usage on stderr: %s", stderr.String())
			}
		})
	}
}

func TestCheckConfig(t *testing.T) {
	var stdout, stderr bytes.Buffer
	good := writeFile(t, "c.toml", "[quota]\ncpus = 3\n", 0o644)
	if code := checkConfig(good, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("code %d: %s", code, stderr.String())
	}
	if first, rest, _ := strings.Cut(stdout.String(), "\n"); first != "ok" || !strings.Contains(rest, "\ncpus = 3\n") {
		t.Errorf("got %s", stdout.String())
	}
	stdout.Reset()
	bad := writeFile(t, "c.toml", "[quota]\ncpus = 0\nimages = 0\n", 0o644)
	if code := checkConfig(bad, &stdout, &stderr); code != 1 || stdout.Len() > 0 {
		t.Errorf("code %d: %s", code, stdout.String())
	}
	if n := strings.Count(stderr.String(), "\n"); n != 2 {
		t.Errorf("want two faults: %s", stderr.String())
	}
}

// TestCheckConfigLooksAtPolicies: their faults are the configuration's, and stand beside its own.
func TestCheckConfigLooksAtPolicies(t *testing.T) {
	for _, tt := range []struct {
		name, config, file, text string
		code                     int
		want                     []string // on standard error, a line each
	}{
		{"none", "", "README", "ignored", 0, nil},
		{"shipped", "", "", "", 0, nil},
		{"faults of both", "[quota]\ncpus = 0\n", "secure.toml", "secure = true\nport = 1\n", 1, []string{"c.toml:4: quota.cpus: is the number 0", "/secure.toml:2: "}},
		{"not secure", "", "secure.toml", "secure = false\n", 1, []string{"/secure.toml: a policy of this name is in force while protected data is attached"}},
		{"no such policy", "", "sceure.toml", "", 1, []string{"/sceure.toml: no policy is called"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "policies")
			if tt.file != "" {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			config := writeFile(t, "c.toml", "[policy]\ndir = \""+dir+"\"\n"+tt.config, 0o644)
			if code := checkConfig(config, &stdout, &stderr); code != tt.code || (code == 0) != (stdout.Len() > 0) {
				t.Errorf("code %d, want %d: %s%s", code, tt.code, stdout.String(), stderr.String())
			}
			lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
			if stderr.Len() == 0 {
				lines = nil
			}
			if len(lines) != len(tt.want) {
				t.Fatalf("want %q: %s", tt.want, stderr.String())
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("want %q: %s", want, lines[i])
				}
			}
			if tt.code == 0 {
				return
			}
			if code := run(t.Context(), []string{"-config", config}, &stdout, &stderr); code != exitConfig {
				t.Errorf("the daemon ends with %d", code)
			}
		})
	}
}

func TestFaultsAreTyped(t *testing.T) {
	_, err := parseConfig("c", []byte("x = 1"))
	if fs, ok := errors.AsType[Faults](err); !ok || len(fs) != 1 {
		t.Errorf("got %T %v", err, err)
	}
}

func TestResolvePublicIP(t *testing.T) {
	c := DefaultConfig()
	c.Host.PublicIP = netip.MustParseAddr("203.0.113.7")
	if got := c.ResolvePublicIP(); got != c.Host.PublicIP {
		t.Errorf("got %s", got)
	}
}

func TestLogger(t *testing.T) {
	for _, tt := range []struct{ format, want string }{
		{"auto", " level=INFO msg=x k=1\n"},
		{"text", " level=INFO msg=x k=1\n"},
		{"json", `,"level":"INFO","msg":"x","k":1}` + "\n"},
		{"journal", "<6>level=INFO msg=x k=1\n"},
	} {
		t.Run(tt.format, func(t *testing.T) {
			t.Setenv("JOURNAL_STREAM", "")
			var b bytes.Buffer
			log := newLogger(LogConfig{Format: tt.format}, &b)
			log.Debug("below the level")
			log.Info("x", "k", 1)
			if !strings.HasSuffix(b.String(), tt.want) || strings.Count(b.String(), "\n") != 1 {
				t.Errorf("got %q, want %q", b.String(), tt.want)
			}
		})
	}
}

// What images are fetched by is what the file says, and never the network of the capsules.
func TestFetchRules(t *testing.T) {
	data, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig("full.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	rules := c.fetchRules()
	want := imagestore.FetchRules{Allow: []string{"images.example.org", "*.mirror.example.org:8443", "[fd00::1]"}, Schemes: []string{"https", "http"},
		Private: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00::/64")}, Timeout: time.Hour,
		Deny: []netip.Prefix{netip.MustParsePrefix("10.53.0.0/20")}}
	if d := cmp.Diff(want, rules, cmpConfig); d != "" {
		t.Error(d)
	}
	if err := rules.Check(); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(imagestore.Clean{Remove: []string{".htrc"}, Empty: []string{"/etc/machine-id", "*.log"}}, c.clean()); d != "" {
		t.Error(d)
	}
	if rules := DefaultConfig().fetchRules(); rules.Check() != nil || len(rules.Allow) != 0 {
		t.Errorf("by default: %+v", rules)
	}
}
