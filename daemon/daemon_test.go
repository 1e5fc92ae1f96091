package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/imagestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sourcePath = "/srv/guest.qcow2"

var (
	root  = daemon.Caller{GUID: "root", Local: true, From: "unix:uid=0", Request: "r"}
	alice = daemon.Caller{GUID: "alice", Email: "alice@example.org", From: "127.0.0.1"}
	bob   = daemon.Caller{GUID: "bob", From: "127.0.0.1"}
)

// bench is a daemon over a machine; both the records and the machine outlive the daemon, as in life.
type bench struct {
	t       *testing.T
	db      *store.DB
	machine *machine
	opt     func(*daemon.Options)

	*daemon.Daemon
	stop context.CancelFunc
	done chan error
}

func newBench(t *testing.T, opt func(*daemon.Options)) *bench {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "capsuled.db"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, db: db, machine: newMachine(), opt: opt}
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
		Store: b.db, Hypervisor: b.machine, Domains: b.machine, Fences: b.machine, Files: b.machine, Images: b.machine,
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
	i, op, err := b.AddImage(b.t.Context(), root, daemon.NewImage{Name: "guest", Path: sourcePath, Public: true})
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
	for _, c := range capsules {
		d := m.domains[domain.ID(c.ID)]
		running := d != nil && d.state == domain.Running
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
		if c.Provisioned && (c.Mode == daemon.Maintenance) != (c.State == daemon.Running) {
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

func TestLife(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	if got := b.show(id); got.State != daemon.Shutdown || got.Mode != daemon.NotDefined || got.Observed != "off" || got.SSHPort >= got.VNCPort {
		t.Fatalf("after create: %+v", got)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	if got := b.show(id); got.State != daemon.Running || got.Mode != daemon.Maintenance || got.Observed != "running" {
		t.Fatalf("after launch: %+v", got)
	}
	if _, err := b.LaunchCapsule(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("launched twice: %v", err)
	}
	b.settled()
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.settled()
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("stopped twice: %v", err)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	op, err := b.DeleteCapsule(t.Context(), alice, id)
	if _, err := b.ShowCapsules(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("a capsule on its way out is shown: %v", err)
	}
	b.succeed(op, err)
	b.settled()
	if _, err := b.DeleteCapsule(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if len(b.machine.domains) != 0 {
		t.Error("a domain is left")
	}
}

func TestStrangers(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	for name, ask := range map[string]func(context.Context, daemon.Caller, string) (daemon.Operation, error){
		"launch": b.LaunchCapsule, "stop": b.StopCapsule, "delete": b.DeleteCapsule,
	} {
		if _, err := ask(t.Context(), bob, id); code(err) != daemon.NotFound {
			t.Errorf("%s by a stranger: %v", name, err)
		}
		if _, err := ask(t.Context(), daemon.Caller{}, id); code(err) != daemon.Unauthorized {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	if all, err := b.ListCapsules(t.Context(), bob); err != nil || len(all) != 0 {
		t.Errorf("a stranger lists %v, %v", all, err)
	}
	if _, _, err := b.AddImage(t.Context(), daemon.Caller{GUID: "eve", Roles: []string{"admin"}}, daemon.NewImage{Name: "x", Path: sourcePath}); code(err) != daemon.Forbidden {
		t.Errorf("a remote administrator names a file of the host: %v", err)
	}
}

func TestQuotaUnderRace(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	var mu sync.Mutex
	var codes []daemon.Code
	var wg sync.WaitGroup
	for range 12 { // the quota has room for four vcpus
		wg.Go(func() {
			_, _, err := b.CreateCapsule(t.Context(), alice, order(image))
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, code(err))
		})
	}
	wg.Wait()
	slices.Sort(codes)
	if n := len(codes) - slices.Index(codes, daemon.OverQuota); codes[3] != "" || n != 8 {
		t.Errorf("of twelve creations within a quota of four: %v", codes)
	}
	b.settled()
}

func TestPortsRunOut(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.PortHigh = o.PortLow + 2; o.Quota.CPUs = 10 })
	image := b.image()
	id := b.create(alice, image)
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(image)); code(err) != daemon.Exhausted {
		t.Fatalf("a second capsule in three ports: %v", err)
	}
	b.settled()
	b.succeed(b.DeleteCapsule(t.Context(), alice, id))
	b.create(alice, image)
	b.settled()
}

func TestTwoRequestsAtOnce(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	release := b.machine.block("Start")
	op, err := b.LaunchCapsule(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Busy {
		t.Errorf("a second request: %v", err)
	}
	close(release)
	b.succeed(op, nil)
	b.settled()
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

func TestWhatLibvirtSays(t *testing.T) {
	for name, c := range map[string]struct {
		reason domain.Reason
		want   daemon.State
	}{
		"the guest powers itself off": {domain.ReasonShutdown, daemon.Shutdown},
		"QEMU dies":                   {domain.ReasonCrashed, daemon.Failed},
		"QEMU's monitor vanishes":     {domain.ReasonFailed, daemon.Failed},
		"someone destroys it":         {domain.ReasonDestroyed, daemon.Shutdown},
		"the host was rebooted":       {domain.ReasonOther, daemon.Shutdown},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.create(alice, b.image())
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.machine.mu.Lock()
			d := b.machine.domains[domain.ID(id)]
			d.state, d.reason = domain.Off, c.reason
			b.machine.mu.Unlock()
			b.machine.events <- domain.Event{ID: domain.ID(id)}
			b.until(func() bool { s := b.show(id).State; return s != daemon.Running && s != daemon.ShutdownPending })
			got := b.show(id)
			if got.State != c.want || (got.Cause == "") != (c.reason == domain.ReasonShutdown) {
				t.Errorf("state %s, cause %q", got.State, got.Cause)
			}
			b.settled()
			if got.State == daemon.Failed { // repaired by a stop, and usable again
				b.succeed(b.StopCapsule(t.Context(), alice, id))
			}
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.settled()
		})
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

func TestUnknownIsNotOff(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.mu.Lock()
	b.machine.down = errors.New("libvirtd is gone")
	b.machine.mu.Unlock()
	if got := b.show(id); got.Observed != "unknown" || got.State != daemon.Running {
		t.Errorf("while libvirt is away: %s, %s", got.State, got.Observed)
	}
	if r := b.Ready(); r.Ready || len(r.Reasons) == 0 {
		t.Errorf("ready while libvirt is away: %+v", r)
	}
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Unavailable {
		t.Errorf("stop while libvirt is away: %v", err)
	}
	b.machine.mu.Lock()
	b.machine.down = nil
	b.machine.mu.Unlock()
	b.machine.events <- domain.Event{}
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.settled()
}

func TestLostRecords(t *testing.T) {
	b := newBench(t, nil)
	b.create(alice, b.image())
	b.kill()
	b.db.Close()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "capsuled.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b.db = db
	b.launch()
	if err := <-b.done; err == nil {
		t.Error("the daemon runs over capsules that its records do not know")
	}
	b.stop = nil
	if len(b.machine.dirs) != 1 || len(b.machine.domains) != 1 {
		t.Error("it destroyed what it could not explain")
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
