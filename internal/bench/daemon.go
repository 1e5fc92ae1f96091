package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// patience bounds every single wait; it measures nothing.
const patience = 3 * time.Minute

// daemon is capsuled with bounds that hold a thousand capsules, and the guest's image in it.
type daemon struct {
	*rig.Daemon
	api    *client.Client
	notify *net.UnixConn
	log    *os.File
	image  string
	guest  testhost.GuestImage // that the image is of
}

const config = `
[host]
state_dir = "/var/lib/capsuled/bench"
run_dir = "/run/capsuled"
[network]
subnet = "192.168.64.0/20"
ports = "16000-19999"
[quota]
cpus = 4096
memory_mb = 16777216
disk_gb = 1048576
[capsule]
volume_gb = 10
spool_gb = 10
stop_grace = "1s"
`

// newDaemon starts the daemon and adds the image.
func newDaemon(ctx context.Context, p plan) (_ *daemon, err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "capsuled.toml")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	bin := os.Getenv(envPrograms)
	d := &daemon{log: log, Daemon: &rig.Daemon{
		Programs: rig.Programs{Capsuled: filepath.Join(bin, "capsuled"), Capsulectl: filepath.Join(bin, "capsulectl")},
		Socket:   "/run/capsuled/capsuled.sock", Config: file, Log: log,
	}}
	// The daemon takes us for systemd, and tells the instant at which it is ready.
	at := filepath.Join(dir, "notify")
	if d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"}); err != nil {
		return nil, err
	}
	if err := os.Setenv("NOTIFY_SOCKET", at); err != nil {
		return nil, err
	}
	if d.api, err = client.New(client.Options{Socket: d.Socket}); err != nil {
		return nil, err
	}
	if _, err = d.boot(); err != nil {
		return nil, err
	}
	d.guest, err = testhost.BuildGuest(ctx)
	if err == nil {
		d.image, err = d.Ctl(ctx, "image", "add", "--name", "guest", "--public", d.guest.Qcow2)
	}
	if err != nil {
		d.Kill()
	}
	return d, err
}

// boot starts the daemon and returns the time from its process to its READY.
func (d *daemon) boot() (time.Duration, error) {
	began := time.Now()
	if err := d.Start(); err != nil {
		return 0, err
	}
	if err := d.notify.SetReadDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	said := make([]byte, 4096)
	for {
		n, err := d.notify.Read(said)
		if err != nil {
			return 0, fmt.Errorf("capsuled did not become ready: %w\n%s", err, d.logged())
		}
		if bytes.Contains(said[:n], []byte("READY=1")) {
			return time.Since(began), nil
		}
	}
}

// restart is a restart of the service; it returns the time from the new process to its READY.
func (d *daemon) restart() (time.Duration, error) {
	if err := d.halt(); err != nil {
		return 0, err
	}
	return d.boot()
}

func (d *daemon) halt() error {
	d.api.Close()
	return d.Stop()
}

// operate begins an operation and waits for its end, which must be a good one. It returns how long both took together.
func (d *daemon) operate(ctx context.Context, begin func() (operation string, err error)) (wire.Operation, time.Duration, error) {
	began := time.Now()
	id, err := begin()
	if err != nil {
		return wire.Operation{}, 0, err
	}
	for {
		// Answered when the operation ends, so there is no polling in the time.
		op, err := d.api.Operation(ctx, id, 60*time.Second)
		took := time.Since(began)
		switch {
		case err != nil:
			return op, took, err
		case op.State == client.Running:
			continue
		case op.Code != "":
			return op, took, fmt.Errorf("%s of %s: step %s: %s", op.Kind, op.Target, op.Step, op.Cause)
		}
		return op, took, nil
	}
}

func (d *daemon) create(ctx context.Context) (wire.Operation, time.Duration, error) {
	return d.createOf(ctx, d.image, 256)
}

func (d *daemon) createOf(ctx context.Context, image string, memoryMB int) (wire.Operation, time.Duration, error) {
	return d.operate(ctx, func() (string, error) {
		_, operation, err := d.api.CreateCapsule(ctx, client.NewCapsule{ImageID: image, VCPUs: 1, MemoryMB: memoryMB, LoginUser: "bench", LoginPassword: "bench123"})
		return operation, err
	})
}

// act is one of the calls that name a capsule.
func (d *daemon) act(ctx context.Context, call func(context.Context, string) (string, error), capsule string) (wire.Operation, time.Duration, error) {
	return d.operate(ctx, func() (string, error) { return call(ctx, capsule) })
}

// logged is the end of what the daemon logged.
func (d *daemon) logged() string {
	text, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// switchTo takes a capsule to a mode.
func (d *daemon) switchTo(ctx context.Context, capsule, mode string) (wire.Operation, time.Duration, error) {
	return d.operate(ctx, func() (string, error) { return d.api.SwitchCapsule(ctx, capsule, mode, false) })
}

// memory is what the kernel holds of a process in RAM, in bytes.
type memory struct {
	resident  int64
	anonymous int64 // of it; the rest is of files: the program and its libraries
	peak      int64 // the most that was ever resident
}

func (d *daemon) memory() (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		return m, err
	}
	for field, into := range map[string]*int64{"VmRSS": &m.resident, "RssAnon": &m.anonymous, "VmHWM": &m.peak} {
		_, rest, _ := strings.Cut(string(text), "\n"+field+":")
		if _, err := fmt.Sscanf(rest, "%d kB", into); err != nil {
			return m, fmt.Errorf("%s of capsuled: %w", field, err)
		}
		*into <<= 10
	}
	return m, nil
}
