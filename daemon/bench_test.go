package daemon_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/imagestore"
)

const sourcePath = "/srv/guest.qcow2"

var (
	root  = daemon.Caller{GUID: "root", Local: true, From: "unix:uid=0", Request: "r"}
	alice = daemon.Caller{GUID: "alice", Email: "alice@example.org", From: "127.0.0.1"}
	bob   = daemon.Caller{GUID: "bob", From: "127.0.0.1"}
)

// bench is a daemon over a machine; both the records and the machine outlive the daemon, as in life.
type bench struct {
	t       testing.TB
	db      *store.DB
	path    string // of the records
	machine *machine
	opt     func(*daemon.Options)

	*daemon.Daemon
	life context.Context // ends when the daemon is killed
	stop context.CancelFunc
	done chan error
}

func newBench(t testing.TB, opt func(*daemon.Options)) *bench {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capsuled.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, db: db, path: path, machine: newMachine(), opt: opt}
	b.machine.sources[sourcePath] = imagestore.Image{Digest: "sha256:00", Format: imagestore.Qcow2, FileBytes: 1, VirtualBytes: 2}
	t.Cleanup(func() {
		b.kill()
		db.Close()
	})
	b.start()
	return b
}

// start runs a new daemon and waits until it is ready.
func (b *bench) start() {
	b.t.Helper()
	ready := b.launch()
	select {
	case <-ready:
	case err := <-b.done:
		b.t.Fatalf("daemon ended: %v", err)
	case <-time.After(time.Minute):
		b.t.Fatalf("daemon is not ready: %v", b.Ready())
	}
}

// launch runs a new daemon and returns what is closed when it is ready.
func (b *bench) launch() (ready chan struct{}) {
	b.t.Helper()
	opt := daemon.Options{
		Host: "host1", PublicIP: "198.51.100.1", PortLow: 26000, PortHigh: 26019,
		Network:   domain.Network{Name: "capsules", Bridge: "capsbr0", Subnet: netip.MustParsePrefix("192.168.53.0/24")},
		VNCListen: netip.MustParseAddr("127.0.0.1"),
		Quota:     daemon.Quota{CPUs: 4, MemoryMB: 4096, DiskGB: 100, Images: 5}, VolumeGB: 10, SpoolGB: 10,
		StopGrace: time.Second, Patience: time.Nanosecond, ReconcileEvery: time.Hour,
		Store: b.db, Hypervisor: b.machine, Domains: b.machine, Fences: fencesOf{b.machine}, Files: b.machine, Images: imagesOf{b.machine},
		CollectEvery: time.Hour, FetchRules: imagestore.FetchRules{Allow: []string{"images.example.org"}},
		Disconnect: b.machine.disconnect, CutConsoles: true, RotatePassword: true, VerifyEvery: time.Hour, Policies: b.machine.policyFiles,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
	if b.opt != nil {
		b.opt(&opt)
	}
	d, err := daemon.New(opt)
	if err != nil {
		b.t.Fatal(err)
	}
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	b.life = ctx
	b.Daemon, b.done, ready = d, make(chan error, 1), make(chan struct{})
	go func() {
		b.done <- d.Run(ctx, func(r daemon.Readiness) {
			if r.Ready {
				close(ready)
			}
		})
	}()
	return ready
}

// kill ends the daemon where it stands: calls under way never return to it, and it writes nothing more.
func (b *bench) kill() {
	if b.stop != nil {
		b.stop()
		<-b.done
		b.stop = nil
		b.machine.mu.Lock()
		clear(b.machine.quiet)
		b.machine.mu.Unlock()
	}
}

func (b *bench) wait(op daemon.Operation, err error) daemon.Operation {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	op, err = b.WaitOperation(b.t.Context(), root, op.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return op
}

// succeed waits for an operation that must succeed.
func (b *bench) succeed(op daemon.Operation, err error) {
	b.t.Helper()
	if op := b.wait(op, err); op.State != daemon.OperationSucceeded {
		b.t.Fatalf("%s: %s: %s", op.Kind, op.State, op.Cause)
	}
}

func (b *bench) image() string {
	b.t.Helper()
	i, op, err := b.AddImage(b.t.Context(), root, daemon.NewImage{Name: "guest", Path: sourcePath, Visibility: daemon.Public})
	b.succeed(op, err)
	return i.ID
}

func order(image string) daemon.NewCapsule {
	return daemon.NewCapsule{ImageID: image, LoginUser: "dcuser", LoginPassword: "secret", MemoryMB: 256, VCPUs: 1}
}

func (b *bench) create(c daemon.Caller, image string) string {
	b.t.Helper()
	v, op, err := b.CreateCapsule(b.t.Context(), c, order(image))
	b.succeed(op, err)
	return v.ID
}

func (b *bench) show(id string) daemon.Capsule {
	b.t.Helper()
	all, err := b.ShowCapsules(b.t.Context(), root, id)
	if err != nil || len(all) != 1 {
		b.t.Fatalf("show %s: %v, %v", id, all, err)
	}
	return all[0]
}

func code(err error) daemon.Code {
	if e, ok := errors.AsType[*daemon.Error](err); ok {
		return e.Code
	}
	return ""
}

// settled waits until no operation is under way, and checks that the machine has what the records say and no more.
func (b *bench) settled() {
	b.t.Helper()
	b.idle()
	b.shelved()
	var capsules []store.Capsule
	var ports map[int]bool
	var addresses map[string]bool
	if err := b.db.View(b.t.Context(), func(tx *store.Tx) (err error) {
		capsules, err = tx.Capsules()
		ports, _ = tx.HeldPorts()
		addresses, _ = tx.HeldAddresses()
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	m := b.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	made, fenced := 0, 0
	logs := maps.Clone(m.logs)
	for _, c := range capsules {
		d := m.domains[domain.ID(c.ID)]
		running := d != nil && d.state == domain.Running
		if quiet := m.quiet[domain.ID(c.ID)]; quiet != (c.Mode == daemon.Secure) && c.State == daemon.Running {
			b.t.Errorf("%s is in mode %s, and its guest's figures are kept away: %t", c.ID, c.Mode, quiet)
		}
		if logs[c.Key] && c.Mode != daemon.Secure {
			b.t.Errorf("%s is %s in mode %s, and libvirt's log of it may hold what it read in secure mode", c.ID, c.State, c.Mode)
		}
		delete(logs, c.Key)
		p := m.points[domain.ID(c.ID)]
		if p == nil {
			p = &fakePoint{}
		}
		if inSecure := c.Mode == daemon.Secure; inSecure != p.overlay && !(c.State == daemon.Failed && inSecure) || inSecure && c.State == daemon.Running && p.ram == nil || !inSecure && p.ram != nil {
			b.t.Errorf("%s is %s in mode %s: overlay %t, RAM file %t", c.ID, c.State, c.Mode, p.overlay, p.ram != nil)
		}
		switch c.State {
		case daemon.Running:
			made++
			fenced++
			if !running {
				b.t.Errorf("%s is RUNNING and its domain is not", c.ID)
			}
		case daemon.Shutdown:
			made++
			if running {
				b.t.Errorf("%s is SHUTDOWN and its domain runs", c.ID)
			}
		case daemon.Failed:
			if running {
				b.t.Errorf("%s is ERROR and its domain runs", c.ID)
			}
			if c.Cause == "" {
				b.t.Errorf("%s is ERROR without a cause", c.ID)
			}
			if c.Provisioned {
				made++
			}
		default:
			b.t.Errorf("%s is left %s", c.ID, c.State)
		}
		if c.Provisioned && (c.Mode != daemon.NotDefined) != (c.State == daemon.Running) && c.State != daemon.Failed {
			b.t.Errorf("%s is %s in mode %s", c.ID, c.State, c.Mode)
		}
	}
	for what, n := range map[string]int{
		"domains": len(m.domains), "leases": len(m.leases), "directories": len(m.dirs), "addresses": len(addresses), "pairs of ports": len(ports) / 2,
	} {
		if n != made {
			b.t.Errorf("%d %s for %d capsules: %+v", n, what, made, capsules)
		}
	}
	for name := range logs {
		b.t.Errorf("libvirt's log of %s is there, and no capsule of it", name)
	}
	for _, promise := range m.broken {
		b.t.Error(promise)
	}
	if len(m.bindings) != fenced {
		b.t.Errorf("%d bindings for %d running capsules", len(m.bindings), fenced)
	}
}

// idle waits until every operation has ended.
func (b *bench) idle() {
	b.t.Helper()
	for {
		open, err := b.Operations(b.t.Context(), root, daemon.OperationFilter{State: daemon.OperationRunning})
		if err != nil {
			b.t.Fatal(err)
		}
		if len(open) == 0 {
			return
		}
		b.wait(open[0], nil)
	}
}

// until waits for something that the daemon brings about by itself.
func (b *bench) until(ok func() bool) {
	b.t.Helper()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			b.t.Fatal("it did not come about within a minute")
		case <-time.After(time.Millisecond):
		}
	}
}

// states are those of every capsule that is not deleted, the hidden ones too.
func (b *bench) states() (all []daemon.State) {
	b.t.Helper()
	if err := b.db.View(b.t.Context(), func(tx *store.Tx) error {
		capsules, err := tx.Capsules()
		for _, c := range capsules {
			all = append(all, c.State)
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return all
}

// block holds the next calls of that name until the returned channel is closed.
func (m *machine) block(call string) chan struct{} {
	release := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = func(_ int, name string) fault {
		if name == call {
			m.mu.Unlock() // call holds it
			<-release
			m.mu.Lock()
		}
		return none
	}
	return release
}

// exec runs a statement on the records, for what no verb writes yet.
func (b *bench) exec(q string, args ...any) error {
	db, err := sql.Open("sqlite3", "file:"+b.path+"?_busy_timeout=10000")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(q, args...)
	return err
}
