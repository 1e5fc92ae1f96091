// Package rig drives the built programs on a hermetic host: it starts, stops and kills capsuled, calls capsulectl and
// the HTTP API, and goes into guests by ssh from the outside world. The end-to-end tests, the demonstration and the
// benchmarks share it. It is used inside a host of internal/testhost.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/capsuled/capsuled/internal/testhost"
)

// Programs are the paths of the built commands.
type Programs struct {
	Capsuled   string
	Capsulectl string
}

// Build builds both commands of the module whose root is given into build/<name>; with race, capsuled has the race
// detector. It must be called outside the host, where the module proxy can be reached.
func Build(ctx context.Context, root, name string, race bool) (Programs, error) {
	dir := filepath.Join(root, "build", name)
	p := Programs{Capsuled: filepath.Join(dir, "capsuled"), Capsulectl: filepath.Join(dir, "capsulectl")}
	daemon := []string{"build", "-o", p.Capsuled}
	if race {
		daemon = append(daemon, "-race")
	}
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"CGO_ENABLED=1", append(daemon, "./cmd/capsuled")},
		{"CGO_ENABLED=0", []string{"build", "-o", p.Capsulectl, "./cmd/capsulectl"}},
	} {
		cmd := exec.CommandContext(ctx, "go", b.args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("rig: go %s: %w\n%s", strings.Join(b.args, " "), err, out)
		}
	}
	return p, nil
}

// Daemon is a running capsuled, or one that was killed and can be started again.
type Daemon struct {
	Programs Programs
	Socket   string
	Config   string // path; "" for the embedded defaults
	Log      io.Writer

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan error
}

// Start starts capsuled and returns at once; it is not ready yet.
func (d *Daemon) Start() error {
	var args []string
	if d.Config != "" {
		args = []string{"-config", d.Config}
	}
	cmd := exec.Command(d.Programs.Capsuled, args...)
	cmd.Stdout, cmd.Stderr = d.Log, d.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began, done := make(chan error), make(chan error, 1)
	go func() {
		// The signal is sent when the thread ends that started the process (prctl(2), PR_SET_PDEATHSIG): this one is
		// kept from others, who may end it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	if err := <-began; err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cmd, d.done = cmd, done
	return nil
}

// Pid is the process id of the running daemon.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}

// Ready waits until /readyz says so; it fails at once when the daemon ends.
func (d *Daemon) Ready(ctx context.Context) error {
	return Until(ctx, func() error {
		select {
		case err := <-d.done:
			d.done <- err
			return Final(fmt.Errorf("capsuled ended: %v", err))
		default:
		}
		status, body, err := d.Get(ctx, "/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("not ready: %s", body)
		}
		return err
	})
}

// Signal sends a signal and waits until the daemon has ended; the error is how it ended.
func (d *Daemon) Signal(s syscall.Signal) error {
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return <-done
}

// Kill ends the daemon as a power cut would: nothing of it runs any more when it returns.
func (d *Daemon) Kill() { _ = d.Signal(syscall.SIGKILL) }

// Stop asks the daemon to end and waits for it.
func (d *Daemon) Stop() error { return d.Signal(syscall.SIGTERM) }

// Client speaks HTTP over the unix socket, as root.
func (d *Daemon) Client() *http.Client {
	return &http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
		},
	}}
}

// Get reads a path over the unix socket.
func (d *Daemon) Get(ctx context.Context, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://capsuled"+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := d.Client().Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Ctl runs capsulectl over the unix socket. The error holds what it wrote to standard error.
func (d *Daemon) Ctl(ctx context.Context, args ...string) (stdout string, err error) {
	cmd := exec.CommandContext(ctx, d.Programs.Capsulectl, append([]string{"--socket", d.Socket}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("capsulectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// SSH runs a command in a guest, from the outside world through the forwarded port of the host.
func SSH(ctx context.Context, guest testhost.GuestImage, port int, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := testhost.World(ctx, "ssh", "-i", guest.KeyPath, "-p", fmt.Sprint(port),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "root@"+testhost.HostAddr, command)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("ssh: %w: %s", err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// AwaitSSH waits until a guest answers, and returns what the command said.
func AwaitSSH(ctx context.Context, guest testhost.GuestImage, port int, command string) (out string, err error) {
	err = Until(ctx, func() error { out, err = SSH(ctx, guest, port, command); return err })
	return out, err
}

type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Final marks an error that no further try will mend.
func Final(err error) error { return final{err} }

// Until tries again, a little later each time, until try succeeds, ctx ends or the error is final.
func Until(ctx context.Context, try func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, 250*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[final](err); ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
