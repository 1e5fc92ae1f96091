package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

const (
	secret   = "an end-to-end secret of 32 bytes and more"
	patience = 5 * time.Minute // bounds every wait; a guest without hardware virtualisation on a busy machine is slow

	envCapsuled   = "CAPSULED_E2E_CAPSULED"
	envCapsulectl = "CAPSULED_E2E_CAPSULECTL"

	envGophercloud = "CAPSULED_E2E_GOPHERCLOUD"
)

func TestMain(m *testing.M) {
	if !testhost.Inside() {
		if err := buildPrograms(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(testhost.ExitSetup)
		}
	}
	testhost.Main(m, testhost.WithLibvirt())
}

// buildPrograms builds outside the host, where the module proxy can be reached. The daemon has the race detector when
// the tests have it.
func buildPrograms() error {
	if os.Getenv(envCapsuled) != "" { // a copy of this process on its way in
		return nil
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	p, err := rig.Build(context.Background(), root, "e2e", raceEnabled)
	if err != nil {
		return err
	}
	if err := buildGophercloud(root); err != nil {
		return err
	}
	return os.Setenv(envCapsuled, p.Capsuled+"\n"+p.Capsulectl)
}

// host is a daemon under test, with a state directory of its own.
type host struct {
	t *testing.T
	*rig.Daemon
	dir   string // state directory
	guest testhost.GuestImage
	log   *tail
}

// tail keeps what a daemon logged.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHost writes a configuration, in which settings replace or add to the sections, and does not start the daemon.
// When the test ends, nothing of any capsule may be left on the host, and the daemon may not have found a race.
func newHost(t *testing.T, dir string, settings ...string) *host {
	t.Helper()
	if dir == "" {
		dir = newStateDir(t)
	}
	run := t.TempDir()
	secretFile := filepath.Join(run, "secret")
	if err := os.WriteFile(secretFile, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	sections := map[string][]string{
		"host":    {fmt.Sprintf("state_dir = %q", dir), fmt.Sprintf("run_dir = %q", run)},
		"api":     {fmt.Sprintf("socket = %q", filepath.Join(run, "sock")), `listen = ["127.0.0.1:18080"]`},
		"auth":    {fmt.Sprintf("jwt_secret_file = %q", secretFile)},
		"capsule": {"volume_gb = 1", "spool_gb = 1"},
		"quota":   {"cpus = 100", "memory_mb = 40000", "disk_gb = 1000"},
	}
	for _, s := range settings { // "section.key = value"
		section, line, _ := strings.Cut(s, ".")
		key, _, _ := strings.Cut(line, " ")
		kept := sections[section][:0]
		for _, old := range sections[section] {
			if !strings.HasPrefix(old, key+" ") {
				kept = append(kept, old)
			}
		}
		sections[section] = append(kept, line)
	}
	var config strings.Builder
	for name, lines := range sections {
		fmt.Fprintf(&config, "[%s]\n%s\n", name, strings.Join(lines, "\n"))
	}
	file := filepath.Join(run, "capsuled.toml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	capsuled, capsulectl, _ := strings.Cut(os.Getenv(envCapsuled), "\n")
	h := &host{t: t, dir: dir, guest: testhost.Guest(t), log: &tail{}}
	h.Daemon = &rig.Daemon{
		Programs: rig.Programs{Capsuled: capsuled, Capsulectl: capsulectl},
		Socket:   filepath.Join(run, "sock"), Config: file, Log: h.log,
	}
	t.Cleanup(h.leave)
	return h
}

// newStateDir is a directory that QEMU's user can reach, which t.TempDir is not.
func newStateDir(t *testing.T) string {
	t.Helper()
	const private = "/var/lib/capsuled" // the host's own
	if err := os.Chmod(private, 0o711); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(private, "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "state")
}

// leave deletes what the test left, stops the daemon, and looks for traces.
func (h *host) leave() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := h.Ctl(ctx, "list", "--json"); err == nil {
		for _, id := range vmids(out) {
			if _, err := h.Ctl(ctx, "delete", "--yes", "--wait", id); err != nil {
				h.t.Errorf("at the end: %v", err)
			}
		}
	}
	if err := h.Stop(); err != nil {
		h.t.Errorf("capsuled ended with %v", err)
	}
	traces, err := rig.Traces(ctx, h.dir)
	if err != nil || len(traces) > 0 {
		h.t.Errorf("traces at the end: %v\n%s", err, strings.Join(traces, "\n"))
	}
	if log := h.log.String(); h.t.Failed() || strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
		h.t.Errorf("capsuled's log:\n%s", log)
	}
}

// vmids are the capsules that a JSON list names.
func vmids(list string) []string {
	var found struct {
		Status  []struct{ VMID string }
		VMsInfo []struct{ VMID string }
	}
	_ = json.Unmarshal([]byte(list), &found)
	var ids []string
	for _, s := range append(found.Status, found.VMsInfo...) {
		ids = append(ids, s.VMID)
	}
	return ids
}

func startHost(t *testing.T, settings ...string) *host {
	t.Helper()
	h := newHost(t, "", settings...)
	h.start()
	return h
}

func (h *host) start() {
	h.t.Helper()
	if err := h.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.ready()
}

func (h *host) ready() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := h.Ready(ctx); err != nil {
		h.t.Fatalf("%v\n%s", err, h.log)
	}
}

// ctl runs capsulectl, which must succeed.
func (h *host) ctl(args ...string) string {
	h.t.Helper()
	out, err := h.Ctl(h.t.Context(), args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *host) image() string {
	h.t.Helper()
	return h.ctl("image", "add", "--name", "guest", "--public", h.guest.Qcow2)
}

func (h *host) capsule(image string) string {
	h.t.Helper()
	return h.ctl("create", "--image", image, "--memory", "256", "--wait")
}

func (h *host) status(id string) wire.Status {
	h.t.Helper()
	var list wire.StatusList
	if out := h.ctl("show", "--json", id); json.Unmarshal([]byte(out), &list) != nil || len(list.Status) != 1 {
		h.t.Fatalf("show %s: %s", id, out)
	}
	return list.Status[0]
}

// await waits until a capsule is in a state.
func (h *host) await(id, state string) wire.Status {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	var st wire.Status
	if err := rig.Until(ctx, func() error {
		if st = h.status(id); st.State != state {
			return fmt.Errorf("capsule %s is %s (%v), and should become %s", id, st.State, st.Cause, state)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return st
}

// ssh runs a command in a capsule's guest as soon as it answers.
func (h *host) ssh(id, command string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	out, err := rig.AwaitSSH(ctx, h.guest, h.status(id).SSHPort, command)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// qemu finds the process of a capsule's domain; 0 when there is none.
func qemu(t *testing.T, id string) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", "^[^ ]*qemu-system.*guest=cap-"+id[:8]).Output()
	if err != nil {
		return 0
	}
	pid := 0
	fmt.Sscan(string(out), &pid)
	return pid
}

// token signs claims as the portal would; they replace the defaults, and nil removes one.
func token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "email": "alice@example.org"}
	for k, v := range claims {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func as(t *testing.T, guid string) string { return token(t, map[string]any{"sub": guid}) }

// answer is what came back over TCP.
type answer struct {
	status int
	header http.Header
	body   string
}

// post sends a form over TCP with a token.
func (h *host) post(tok, path string, form url.Values) answer {
	h.t.Helper()
	return h.send(tok, http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
}

func (h *host) send(tok, method, path, contentType, body string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "http://127.0.0.1:18080"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if tok != "" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// wait waits for the operation that an answer began, which must succeed.
func (h *host) wait(a answer) {
	h.t.Helper()
	if a.status != http.StatusOK {
		h.t.Fatalf("status %d: %s", a.status, a.body)
	}
	h.ctl("operation", "wait", filepath.Base(a.header.Get(wire.OperationHeader)))
}

func kill(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must is for commands that cannot fail.
func must(out string, err error) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return out
	}
}
