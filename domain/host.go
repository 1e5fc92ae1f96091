package domain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultURI         = "qemu:///system"
	defaultCallTimeout = time.Minute
	defaultStats       = 15 * time.Second
)

// Options configures a Host.
type Options struct {
	URI         string                // libvirt URI; "" is qemu:///system
	VirtType    string                // "auto" (or ""), "kvm" or "qemu"
	Log         *slog.Logger          // required
	Registerer  prometheus.Registerer // nil: no metrics are kept or collected
	CallTimeout time.Duration         // bound on one libvirt call whose context has no deadline; 0 is a minute
	// StatsInterval is how often the statistics behind the metrics are collected; 0 is 15 s.
	StatsInterval time.Duration
	LogDir        string // where libvirt logs what its domains print; "" is /var/log/libvirt/qemu
}

// Host is the connection to one libvirt and everything done through it. Make one with Open.
type Host struct {
	opt      Options
	virtType string
	log      *slog.Logger
	metrics  *metrics
	lanes    lanes
	events   *eventQueue
	watchers watchers
	asking   sync.Map // of asked

	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	session *session   // nil while not connected
	reason  error      // why not
}

// Open checks the options, finds out whether KVM works, and returns at once: the connection is made in the
// background, and made again for ever when it is lost. Until then every call gives ErrUnavailable.
func Open(opt Options) (*Host, error) {
	if opt.Log == nil {
		return nil, fmt.Errorf("domain: open: %w: no logger", ErrInvalid)
	}
	if opt.CallTimeout < 0 || opt.StatsInterval < 0 {
		return nil, fmt.Errorf("domain: open: %w: negative duration", ErrInvalid)
	}
	virtType, err := resolveVirtType(opt.VirtType, opt.Log)
	if err != nil {
		return nil, err
	}
	if opt.URI == "" {
		opt.URI = defaultURI
	}
	if opt.LogDir == "" {
		opt.LogDir = defaultLogDir
	}
	if opt.CallTimeout == 0 {
		opt.CallTimeout = defaultCallTimeout
	}
	if opt.StatsInterval == 0 {
		opt.StatsInterval = defaultStats
	}
	if err := startEventLoop(); err != nil {
		return nil, wrap("open: event loop", err)
	}
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, fmt.Errorf("domain: open: metrics: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &Host{
		opt: opt, virtType: virtType, log: opt.Log, metrics: m, lanes: newLanes(),
		events: newEventQueue(), stop: stop,
		reason: fmt.Errorf("domain: %w: not connected yet", ErrUnavailable),
	}
	h.wg.Go(func() { h.connectForever(ctx) })
	h.wg.Go(func() { h.events.pump(ctx) })
	if opt.Registerer != nil {
		h.wg.Go(func() { h.collectForever(ctx) })
	}
	return h, nil
}

// Close ends the connection and closes the channel of Events. It touches no domain and no network. Calls under
// way are left to end by themselves; new ones give ErrUnavailable. Closing twice is harmless.
func (h *Host) Close() error {
	h.stop()
	h.wg.Wait()
	h.metrics.unregister(h.opt.Registerer)
	return nil
}

// Connected is nil while the connection to libvirt stands, and says what is wrong otherwise. It makes no call.
func (h *Host) Connected() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session != nil {
		return nil
	}
	return h.reason
}

// VirtType is the accelerator that Define uses: "kvm" or "qemu".
func (h *Host) VirtType() string { return h.virtType }

// Version names libvirt's and QEMU's versions, such as "libvirt 9.0.0, QEMU 7.2.22"; "" while not connected.
func (h *Host) Version() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session == nil {
		return ""
	}
	return h.session.version
}

// Events is the one channel of events; it has one reader. An event tells that a domain, ours or a stranger's,
// may have changed: observe it. An empty ID means after each (re)connect, and when too much happened at once,
// that everything may have changed. Events of one domain that nobody has read yet are one event. The channel
// is closed by Close.
func (h *Host) Events() <-chan Event { return h.events.out }

// errClosed is why nothing is connected after Close.
var errClosed = errors.New("closed")
