package api_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
)

// TestFirstSteps runs the first steps of docs/images-api.md as they stand there, but for the address, with an upload of which
// a part has come before.
func TestFirstSteps(t *testing.T) {
	const id = "11111111-2222-4333-8444-555555555555"
	text := string(must[[]byte](t)(os.ReadFile("../docs/images-api.md")))
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	dir := openDir(t)
	users := filepath.Join(dir, "users")
	write(t, users, usersLine(t, "alice", "correct horse", "a1b2:alice@example.org:hathi:"), 0o600)
	h := start(t, func(o *api.Options) { o.UsersFile = users })
	big := strings.Repeat(jammy, 20)
	before := strings.Repeat("x", 1000000) // other bytes: they stay, unless all of it is sent anew
	write(t, filepath.Join(dir, "big.qcow2"), big, 0o600)
	write(t, filepath.Join(dir, "before"), before, 0o600)
	h.set(func(f *fakeDaemon) {
		f.capsules[id] = &daemon.Capsule{ID: id, State: daemon.Shutdown}
	})
	script := "set -eu\n"
	for i, b := range blocks {
		if i == 4 { // the operations here end for nobody, and only what is ACTIVE is changed
			script += "image=/v1/images/image-1\n"
		}
		script += b[1]
	}
	const begin = "while there="
	for old, here := range map[string]string{
		"HOST=http://127.0.0.1:8080\n": "HOST=" + h.tcpURL + "\n",
		"?wait=60":                     "?wait=1",
		begin:                          "curl -fsS -H @auth -H 'Content-Type: application/octet-stream' -T before $HOST$image/file\nbig=$image\n" + begin,
	} {
		if strings.Count(script, old) != 1 {
			t.Errorf("%d times %q", strings.Count(script, old), old)
		}
		script = strings.ReplaceAll(script, old, here)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script+`printf '\n%s\n' "$big"`)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || h.bytesOf(lines[len(lines)-1]) != before+big[len(before):] {
		t.Fatalf("%v\n%s", err, out)
	}
	h.set(func(f *fakeDaemon) {
		if len(f.added) != 2 || f.added[0].URL == "" || f.added[1].Bytes != int64(len(big)) || len(f.shares) != 1 || len(f.changes) != 1 ||
			*f.changes[0].Visibility != daemon.Shared {
			t.Errorf("%+v, %+v, %+v\n%s", f.added, f.shares, f.changes, out)
		}
	})
}
