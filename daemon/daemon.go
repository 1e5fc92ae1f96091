package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/imagestore"
)

// hypervisor is what the daemon asks of libvirt's connection and its network.
type hypervisor interface {
	Connected() error
	Events() <-chan domain.Event
	EnsureNetwork(context.Context, domain.Network) error
	Leases(ctx context.Context, network string) ([]domain.Lease, error)
	PutLease(ctx context.Context, network string, l domain.Lease) error
	DropLease(ctx context.Context, network string, mac net.HardwareAddr) error
}

// domains is what the daemon asks of libvirt's domains.
type domains interface {
	Define(context.Context, domain.Spec) error
	Start(context.Context, domain.ID) error
	Shutdown(ctx context.Context, id domain.ID, grace time.Duration) error
	Destroy(context.Context, domain.ID) error
	Undefine(context.Context, domain.ID) error
	Observe(context.Context) (map[domain.ID]domain.Observed, error)
	ObserveOne(context.Context, domain.ID) (domain.Observed, error)
	Inspect(context.Context, domain.ID) (domain.Inspection, error)
	AwaitJob(context.Context, domain.ID) error
	Checkpoint(context.Context, domain.ID, domain.CleanPoint) error
	Restorable(context.Context, domain.ID) error
	Restore(ctx context.Context, s domain.Spec, ram string) error
	Attach(context.Context, domain.ID, domain.Disk) error
	Pause(context.Context, domain.ID) error
	Resume(context.Context, domain.ID) error
	SetPassword(ctx context.Context, id domain.ID, password string) error
	Quiet(ctx context.Context, id domain.ID, quiet bool) error
	DropLog(ctx context.Context, name string) error

	GuestMount(context.Context, domain.ID, []domain.Mount) error
	Freeze(context.Context, domain.ID) (int, error)
	Thaw(context.Context, domain.ID) (int, error)
	SetClock(context.Context, domain.ID, time.Time) error
}

// fences is what the daemon asks of the firewall.
type fences interface {
	Apply(context.Context, []firewall.Binding) error
	Reapply(context.Context) error
	Put(context.Context, firewall.Binding) error
	Drop(ctx context.Context, tap string) error
	Shut(tap string) error
	Verify(context.Context) ([]string, error)
	GuardBridge(context.Context) error
	SetPolicies(context.Context, []policy.Policy) error
	Inspect(ctx context.Context, tap string) (firewall.Evidence, error)
	InspectAll(context.Context) (map[string]firewall.Evidence, error)
	Cut(ctx context.Context, tap string) (int, error)
	Changes(context.Context) <-chan struct{}
	Conflicts(context.Context) ([]firewall.Conflict, error)
}

// files is what the daemon asks of the disks of capsules, and images of the images they are cloned from.
type files interface {
	Prepare(context.Context, []imagestore.Volume) error
	Clone(ctx context.Context, key string, d imagestore.Digest, size int64) (imagestore.File, error)
	CloneVolume(ctx context.Context, key string, v imagestore.Volume) (imagestore.File, error)
	Files(ctx context.Context, key string) (map[string]imagestore.File, error)
	SerialLog(key string) string
	Erase(ctx context.Context, key string) error
	Keys(context.Context) ([]string, error)
	FreeBytes(ctx context.Context, want int64) (int64, error)
	PrepareCleanPoint(ctx context.Context, key string, ramBytes int64) (imagestore.CleanPoint, error)
	CleanPoint(ctx context.Context, key string) (imagestore.CleanPoint, error)
	DropOverlay(ctx context.Context, key string) error
	DropRAM(ctx context.Context, key string) error
	DropSerialLog(ctx context.Context, key string) error
	OpenBy(ctx context.Context, key string, disks ...string) ([]imagestore.Holder, error)
}

type images interface {
	Import(ctx context.Context, path string, p imagestore.Progress) (imagestore.Image, error)
	Fetch(context.Context, imagestore.Fetch, imagestore.Progress) (imagestore.Image, error)
	Flatten(ctx context.Context, key string, c imagestore.Clean, p imagestore.Progress) (imagestore.Image, error)
	BeginUpload(ctx context.Context, size int64, sum imagestore.Digest) (imagestore.UploadID, error)
	AppendUpload(ctx context.Context, id imagestore.UploadID, offset int64, r io.Reader) (received int64, err error)
	FinishUpload(context.Context, imagestore.UploadID, imagestore.Progress) (imagestore.Image, error)
	AbortUpload(context.Context, imagestore.UploadID) error
	Uploads(context.Context) ([]imagestore.Upload, error)
	Open(context.Context, imagestore.Digest) (*os.File, imagestore.Image, error)
	Verify(context.Context, imagestore.Digest, imagestore.Progress) error
	Stat(context.Context, imagestore.Digest) (imagestore.Image, error)
	Remove(context.Context, imagestore.Digest) error
	Digests(context.Context) ([]imagestore.Digest, error)
	Sweep(ctx context.Context, images map[imagestore.Digest]bool, keys map[string]bool) ([]string, error)
}

var (
	_ hypervisor = (*domain.Host)(nil)
	_ domains    = (*domain.Host)(nil)
	_ fences     = (*firewall.Chains)(nil)
	_ files      = (*imagestore.Store)(nil)
	_ images     = (*imagestore.Store)(nil)
)

// Quota bounds what one user may hold.
type Quota struct {
	CPUs, MemoryMB, DiskGB, Images int
}

// Options say how a daemon is to be, and what it drives.
type Options struct {
	Host      string // this host's name, as callers see it
	PublicIP  string // where callers reach forwarded ports; "" when unknown
	Network   domain.Network
	PortLow   int // host ports for ssh forwards and consoles, both ends included
	PortHigh  int
	VNCListen netip.Addr

	Quota        Quota
	VolumeGB     int
	SpoolGB      int
	StopGrace    time.Duration // how long a guest may take to power itself off
	ReserveBytes int64         // disk space that creating a capsule leaves free

	Policies       func() ([]policy.Policy, error) // reads the policies; called at the start and at each reload
	VerifyEvery    time.Duration                   // how often capsules in secure mode are proved; 0 means 5 s
	MountWait      time.Duration                   // how long a guest may take to mount its volumes; 0 means 20 s
	FlushWait      time.Duration                   // how long it may take to write back, or to set its clock; 0 means 5 s
	RotatePassword bool                            // entering secure mode and leaving it change the console's password
	CutConsoles    bool                            // entering secure mode throws viewers out
	// Disconnect ends the connections to local TCP ports and says how many there were; nil means firewall.Disconnect.
	Disconnect func(ctx context.Context, ports ...uint16) (int, error)
	// Own says whether packets to an address end at this host; nil means firewall.Own.
	Own func(netip.Addr) (bool, error)

	FetchRules   imagestore.FetchRules // where images may be fetched from; no host in Allow means from nowhere
	Clean        imagestore.Clean      // what does not travel with the image of a capsule
	Peers        []string              // names of other hosts that must have a shared image before it is ACTIVE
	CollectEvery time.Duration         // how often deleted images are looked after; 0 means 1 min
	KeepDeleted  time.Duration         // how long they keep their bytes; 0 means for no time

	Patience       time.Duration // how long a step waits for libvirt to come back; 0 means two minutes
	ReconcileEvery time.Duration // a full pass without any event; 0 means 30 s

	Store      *store.DB
	Hypervisor hypervisor
	Domains    domains
	Fences     fences
	Files      files
	Images     images
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Daemon owns the capsules of one host.
type Daemon struct {
	opt     Options
	store   *store.DB
	hyper   hypervisor
	domains domains
	fences  fences
	files   files
	images  images
	log     *slog.Logger
	metrics *metrics

	procedures map[string]*procedure
	addresses  addresses

	// births is held for reading while something may exist on disk that no record names yet, and for writing by
	// the sweep: what is being born is not swept.
	births sync.RWMutex
	// fenceMu makes "read the records, then apply the bindings" one act beside the changes of single bindings, each of
	// which is one act with what it notes in unfenced and opened. It is held while the firewall changes rules: where its
	// programs hang that takes seconds, for each that waits here. So nobody waits longer than his context lasts, and who
	// must not wait takes the link down before (Shut), which needs no lock. Reading rules needs none either.
	//
	// The order is reloading, mending, fenceMu, mu; none of them but mu, under which nothing is waited for, is taken within a
	// transaction of the records.
	fenceMu lock
	// unfenced, guarded by fenceMu, are capsules that lost their binding in an operation whose outcome is not
	// recorded yet: their record still says that they have one.
	unfenced map[string]bool
	// opened, guarded by fenceMu, are policies that an operation has put in force and whose outcome is not recorded
	// yet. A restart forgets them: then the record is right, which says that the capsule is closed.
	opened map[string]string
	// mending makes "see what differs, then restore it" one act, so that nobody counts what another mends.
	mending lock
	drift   string // guarded by mending: what could not be restored the last time; "" when nothing
	// reloading makes "read the files, then put them in force" one act.
	reloading sync.Mutex
	// leaseMu does the same for leases; every state in which a lease is dropped is one that wants none.
	leaseMu sync.Mutex

	arrivals arrivals
	appends  claims
	catalog  catalog
	verdicts verdicts
	refusals refusals
	proofs   chan struct{} // bounds how many callers look at the kernel at once

	dirty chan string // ids of capsules to look at; "" is all of them

	mu       sync.Mutex // guards what follows
	live     map[string]*act
	base     context.Context // operations run on it; nil before Run
	starting string          // what the start waits for; "" when it is over
	amiss    string          // what the last full pass could not mend; "" when nothing
	bare     error           // why the templates of volumes could not be made, without which no capsule is; nil when they are there
	failures map[string]failure
	unheld   map[string]string // by id: why capsules are to be held whose hold could not be written down yet (closeNow)
	policies map[string]policy.Policy
	acts     sync.WaitGroup
}

// New makes a daemon that does nothing until Run.
func New(opt Options) (*Daemon, error) {
	if opt.Patience == 0 {
		opt.Patience = 2 * time.Minute
	}
	if opt.ReconcileEvery == 0 {
		opt.ReconcileEvery = 30 * time.Second
	}
	for _, wait := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&opt.VerifyEvery, 5 * time.Second}, {&opt.CollectEvery, time.Minute}, {&opt.MountWait, 20 * time.Second}, {&opt.FlushWait, 5 * time.Second}} {
		*wait.value = cmp.Or(*wait.value, wait.usual)
	}
	if opt.Disconnect == nil {
		opt.Disconnect = firewall.Disconnect
	}
	if opt.Own == nil {
		opt.Own = firewall.Own
	}
	pool, err := newAddresses(opt.Network.Subnet)
	if err != nil {
		return nil, err
	}
	if opt.PortHigh-opt.PortLow < 1 {
		return nil, fmt.Errorf("daemon: the port range %d-%d has no room for a pair of ports", opt.PortLow, opt.PortHigh)
	}
	d := &Daemon{
		opt: opt, store: opt.Store, hyper: opt.Hypervisor, domains: opt.Domains, fences: opt.Fences,
		files: opt.Files, images: opt.Images, log: opt.Log,
		addresses: pool,
		dirty:     make(chan string, 1024),
		live:      map[string]*act{},
		fenceMu:   make(lock, 1),
		mending:   make(lock, 1),
		unfenced:  map[string]bool{},
		opened:    map[string]string{},
		proofs:    make(chan struct{}, 2),
		verdicts:  verdicts{of: map[string]checked{}, blind: map[string]int{}},
		arrivals:  arrivals{named: map[string]imagestore.Digest{}},
		appends:   claims{held: map[string]bool{}},
		catalog:   catalog{store: opt.Store},
		failures:  map[string]failure{},
		unheld:    map[string]string{},
		refusals:  refusals{of: map[string]*tally{}},
		starting:  "the daemon is starting",
	}
	if d.policies, err = d.load(); err != nil {
		return nil, err
	}
	d.procedures = d.table()
	d.metrics = newMetrics(opt.Registerer, d)
	return d, nil
}

// Run closes the firewall around what the records name, waits for libvirt, converges, takes up the operations that
// were open, and then serves events and timers until ctx ends. It calls say whenever what it waits for at the start
// changes, and once when it is ready: when the start is over, and operations are taken. What the host lacks
// then is for Ready to say. It returns when every operation has stopped; what was not finished is taken up
// by the next Run.
func (d *Daemon) Run(ctx context.Context, say func(Readiness)) error {
	d.mu.Lock()
	d.base = ctx
	d.mu.Unlock()
	defer func() {
		d.mu.Lock() // start looks at base under it: nothing is begun after this
		defer d.acts.Wait()
		defer d.mu.Unlock()
	}()

	if err := d.checkRecords(ctx); err != nil {
		return err
	}
	d.complain(ctx, "record of the policies", d.notePoliciesRead(ctx))
	d.warnOwn(ctx)
	d.seedCatalogue(ctx)
	d.complain(ctx, "images that wait for other hosts", d.activateComplete(ctx))
	if !d.settle(ctx, say) {
		return nil
	}
	d.await("")
	d.log.LogAttrs(ctx, slog.LevelInfo, "ready")
	say(Readiness{Ready: true})
	d.acts.Go(func() { d.every(ctx, d.opt.CollectEvery, "images to collect", d.collectDue) })
	d.reconcileLoop(ctx)
	return nil
}

// settle brings the host to what the records say, however often that has to be tried; false when ctx ended first.
func (d *Daemon) settle(ctx context.Context, say func(Readiness)) bool {
	const pause = 250 * time.Millisecond
	// What is closed stays so, and what cannot be proved safe is held, however long the rest takes, and also while rules
	// cannot be written, libvirt is away or a full pass fails: each of these is trouble in which somebody must look.
	look := sync.OnceFunc(func() {
		d.acts.Go(func() { d.watchFence(ctx) })
		d.acts.Go(func() { d.every(ctx, d.opt.VerifyEvery, "capsules in secure mode", d.verifyAll) })
	})
	stages := []struct {
		name string
		do   func(context.Context) error
	}{
		{"the firewall", func(ctx context.Context) error {
			defer look()          // not before the first attempt, which says what should be
			return d.refence(ctx) // closes whoever is between two modes
		}},
		{"libvirt", func(context.Context) error { return d.hyper.Connected() }},
		{"converging", d.converge},
		{"open operations", d.resume},
	}
	for _, s := range stages {
		for said := ""; ; {
			err := s.do(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return false
			}
			if reason := fmt.Sprintf("%s: %v", s.name, err); reason != said {
				said = reason
				d.await(reason)
				d.log.LogAttrs(ctx, slog.LevelWarn, "not ready yet", slog.String("waits_for", reason))
				say(Readiness{Reasons: []string{reason}})
			}
			select {
			case <-ctx.Done():
				return false
			case <-time.After(pause):
			}
		}
	}
	return true
}

func (d *Daemon) await(reason string) {
	d.mu.Lock()
	d.starting = reason
	d.mu.Unlock()
}

// Ready says whether the daemon has converged, libvirt answers, and the last full pass found nothing amiss and has the
// templates of volumes; and if not, what the matter is.
func (d *Daemon) Ready() Readiness {
	var r Readiness
	d.mu.Lock()
	amiss, bare := d.amiss, d.bare
	if d.starting != "" {
		r.Reasons = append(r.Reasons, d.starting)
	}
	d.mu.Unlock()
	if err := d.hyper.Connected(); err != nil && len(r.Reasons) == 0 {
		r.Reasons = append(r.Reasons, fmt.Sprintf("libvirt: %v", err))
	}
	if amiss != "" && len(r.Reasons) == 0 {
		r.Reasons = append(r.Reasons, amiss)
	}
	if bare != nil && len(r.Reasons) == 0 {
		r.Reasons = append(r.Reasons, fmt.Sprintf("no capsule can be created: volume templates: %v", bare))
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// accepting refuses a new operation while it could not be carried out. What is amiss on the host is no reason: it
// may take a stop or a deletion to mend it.
func (d *Daemon) accepting() error {
	d.mu.Lock()
	starting := d.starting
	d.mu.Unlock()
	if starting != "" {
		return errorf(Unavailable, "the host is not ready, try again: %s", starting)
	}
	if err := d.hyper.Connected(); err != nil {
		return &Error{Code: Unavailable, Message: "libvirt does not answer, try again", Err: err}
	}
	return nil
}

// view reads from the records and classifies the error.
func (d *Daemon) view(ctx context.Context, f func(*store.Tx) error) error {
	if err := d.store.View(ctx, f); err != nil {
		return classify(err)
	}
	return nil
}

// missing turns the store's "not found" into the caller's, where the caller named the thing.
func missing(err error, format string, args ...any) error {
	if errors.Is(err, store.ErrNotFound) {
		return errorf(NotFound, format, args...)
	}
	return err
}
