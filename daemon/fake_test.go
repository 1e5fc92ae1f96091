package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/imagestore"
)

// machine is a stateful, strict stand-in for libvirt, the kernel's rules and the disk, for what cannot be had from the
// real ones: a fault at every single call. Like them it outlives the daemon. The real ones are in internal/e2e.
type machine struct {
	mu       sync.Mutex
	down     error // libvirt is away
	events   chan domain.Event
	domains  map[domain.ID]*fakeDomain
	leases   map[string]domain.Lease     // by MAC
	bindings map[string]firewall.Binding // in the kernel
	wanted   map[string]bool             // taps that were bound, whatever became of their bindings
	dirs     map[string]map[string]imagestore.File
	images   map[imagestore.Digest]imagestore.Image
	sources  map[string]imagestore.Image // what Import finds at a path
	calls    []string
	fault    func(n int, call string) fault // asked at every call; nil for none
	stubborn bool                           // guests ignore the power button
	mute     bool                           // guests do not answer
	points   map[domain.ID]*fakePoint       // overlay and RAM file
	policies map[string]policy.Policy
	flushed  map[string]bool      // taps whose rules somebody took away
	broken   []string             // promises that were broken at some instant
	alien    map[domain.ID]string // a device that somebody attached
	looking  atomic.Int64         // how often the rules were asked for
	older    map[domain.ID]bool   // launched by an older version
	consoles map[domain.ID]string // passwords that consoles have
	grown    int64                // bytes that the last clone was to have at least
	frozen   map[domain.ID]bool   // whose guest writes nothing
	shelf
	quiet map[domain.ID]bool // whose guest is asked for no figures; a new daemon has forgotten it
	lost  map[domain.ID]lost // of which libvirt has lost sight, while they run on
	ends  map[domain.ID]int  // how often a process is seen yet that libvirt calls ended
	logs  map[string]bool    // libvirt's logs, by the name of the domain, and whether one may hold what was read in secure mode
}

// lost is what libvirt says of a domain that it has lost sight of.
type lost int

const (
	inSight lost = iota
	asOff        // it restarted without its files of state
	asGone       // somebody defined the domain without our mark
)

// seen is a domain as libvirt knows it; nil when it knows of none. What it does to one that it has lost it does to nobody.
func (m *machine) seen(id domain.ID) *fakeDomain {
	d := m.domains[id]
	if d == nil || m.lost[id] == asGone {
		return nil
	}
	if m.lost[id] == asOff {
		return &fakeDomain{spec: d.spec, state: domain.Off}
	}
	return d
}

type fakeDomain struct {
	spec   domain.Spec   // as defined
	live   []domain.Disk // of the process; nil when there is none
	state  domain.RunState
	reason domain.Reason

	ram     memory // of the process
	written int    // how often the machine may have written to its own disk
	stained bool   // its own disk may hold what was read in secure mode
}

// fault says what happens at a call: an error before its effect or after it, or that the daemon dies there.
type fault int

const (
	none fault = iota
	errBefore
	errAfter
	dieBefore
	dieAfter
)

var errInjected = errors.New("injected")

func newMachine() *machine {
	return &machine{shelf: newShelf(),
		events: make(chan domain.Event, 64), domains: map[domain.ID]*fakeDomain{}, leases: map[string]domain.Lease{},
		bindings: map[string]firewall.Binding{}, wanted: map[string]bool{}, dirs: map[string]map[string]imagestore.File{},
		images: map[imagestore.Digest]imagestore.Image{}, sources: map[string]imagestore.Image{},
		points: map[domain.ID]*fakePoint{}, policies: map[string]policy.Policy{}, flushed: map[string]bool{}, alien: map[domain.ID]string{}, quiet: map[domain.ID]bool{}, lost: map[domain.ID]lost{}, ends: map[domain.ID]int{}, logs: map[string]bool{}, frozen: map[domain.ID]bool{}, older: map[domain.ID]bool{}, consoles: map[domain.ID]string{},
	}
}

// call runs the effect of one call, or the fault that is due there. A death is a call that never returns.
func (m *machine) call(ctx context.Context, name string, effect func() error) error {
	m.mu.Lock()
	f := none
	if m.fault != nil {
		f = m.fault(len(m.calls), name)
	}
	m.calls = append(m.calls, name)
	var err error
	if f != errBefore && f != dieBefore {
		err = effect()
		m.promises(name)
	}
	m.mu.Unlock()
	switch f {
	case errBefore, errAfter:
		return fmt.Errorf("%s: %w", name, errInjected)
	case dieBefore, dieAfter:
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// away fails what libvirt would be asked.
func (m *machine) away(effect func() error) func() error {
	return func() error {
		if m.down != nil {
			return fmt.Errorf("%w: %w", domain.ErrUnavailable, m.down)
		}
		return effect()
	}
}

// --- hypervisor and domains

func (m *machine) Connected() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down
}

func (m *machine) Events() <-chan domain.Event { return m.events }

func (m *machine) EnsureNetwork(ctx context.Context, _ domain.Network) error {
	return m.call(ctx, "EnsureNetwork", m.away(func() error { return nil }))
}

func (m *machine) Leases(ctx context.Context, _ string) (l []domain.Lease, err error) {
	err = m.call(ctx, "Leases", m.away(func() error { l = slices.Collect(maps.Values(m.leases)); return nil }))
	return l, err
}

func (m *machine) PutLease(ctx context.Context, _ string, l domain.Lease) error {
	return m.call(ctx, "PutLease", m.away(func() error {
		for mac, other := range m.leases {
			if other.IP == l.IP {
				delete(m.leases, mac)
			}
		}
		m.leases[l.MAC.String()] = l
		return nil
	}))
}

func (m *machine) DropLease(ctx context.Context, _ string, mac net.HardwareAddr) error {
	return m.call(ctx, "DropLease", m.away(func() error { delete(m.leases, mac.String()); return nil }))
}

func (m *machine) Define(ctx context.Context, s domain.Spec) error {
	return m.call(ctx, "Define", m.away(func() error {
		for _, d := range s.Disks {
			if _, ok := m.dirs[string(s.ID)]; !ok {
				return fmt.Errorf("no disk %s", d.Path)
			}
		}
		if d := m.domains[s.ID]; d != nil {
			d.spec = s
			return nil
		}
		m.domains[s.ID] = &fakeDomain{spec: s, state: domain.Off}
		return nil
	}))
}

func (m *machine) Start(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Start", m.away(func() error {
		d := m.domains[id]
		if d == nil {
			return domain.ErrNotFound
		}
		if b, ok := m.bindings[d.spec.NIC.Tap]; !ok || b.Policy != "maintenance" {
			return errors.New("started without a fence")
		}
		if _, ok := m.leases[d.spec.NIC.MAC.String()]; !ok {
			return errors.New("started without a lease")
		}
		if d.state != domain.Off {
			return nil
		}
		d.live, d.ram, d.reason = slices.Clone(d.spec.Disks), memory{}, domain.ReasonNone
		m.consoles[id] = d.spec.VNC.Password
		m.run(d)
		return nil
	}))
}

func (m *machine) Shutdown(ctx context.Context, id domain.ID, _ time.Duration) error {
	return m.call(ctx, "Shutdown", m.away(func() error {
		d := m.seen(id)
		if d == nil {
			return domain.ErrNotFound
		}
		if d.state != domain.Off && m.stubborn {
			return domain.ErrStillRunning
		}
		d.end(domain.ReasonShutdown)
		return nil
	}))
}

func (m *machine) Destroy(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Destroy", m.away(func() error {
		if d := m.seen(id); d != nil && d.state != domain.Off {
			d.end(domain.ReasonDestroyed)
		}
		return nil
	}))
}

func (m *machine) Undefine(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Undefine", m.away(func() error {
		if d := m.seen(id); d != nil && d.state != domain.Off {
			return domain.ErrConflict
		}
		delete(m.domains, id)
		return nil
	}))
}

func (m *machine) observed(id domain.ID) domain.Observed {
	d := m.seen(id)
	return domain.Observed{ID: id, Name: d.spec.Name, Record: d.spec.Record, State: d.state, Reason: d.reason}
}

func (m *machine) Observe(ctx context.Context) (seen map[domain.ID]domain.Observed, err error) {
	err = m.call(ctx, "Observe", m.away(func() error {
		seen = map[domain.ID]domain.Observed{}
		for id := range m.domains {
			if m.seen(id) != nil {
				seen[id] = m.observed(id)
			}
		}
		return nil
	}))
	return seen, err
}

func (m *machine) ObserveOne(ctx context.Context, id domain.ID) (o domain.Observed, err error) {
	err = m.call(ctx, "ObserveOne", m.away(func() error {
		if m.seen(id) == nil {
			return domain.ErrNotFound
		}
		o = m.observed(id)
		return nil
	}))
	return o, err
}

// --- fences

func (m *machine) Apply(ctx context.Context, all []firewall.Binding) error {
	return m.call(ctx, "Apply", func() error {
		clear(m.bindings)
		clear(m.wanted)
		clear(m.flushed)
		seen := map[string]bool{}
		for _, b := range all {
			if seen[b.IP.String()] {
				return fmt.Errorf("two bindings have %s", b.IP)
			}
			seen[b.IP.String()] = true
			m.bindings[b.Tap], m.wanted[b.Tap] = b, true
		}
		return nil
	})
}

// Reapply puts back the rules that somebody took away.
func (m *machine) Reapply(ctx context.Context) error {
	return m.call(ctx, "Reapply", func() error { clear(m.flushed); return nil })
}

func (m *machine) Put(ctx context.Context, b firewall.Binding) error {
	return m.call(ctx, "Put", func() error { m.bindings[b.Tap], m.wanted[b.Tap] = b, true; return nil })
}

func (m *machine) Drop(ctx context.Context, tap string) error {
	return m.call(ctx, "Drop", func() error {
		for _, d := range m.domains {
			if d.spec.NIC.Tap == tap && d.state != domain.Off && d.state != domain.Paused && m.lost[d.spec.ID] == inSight {
				return errors.New("fence dropped under a running domain")
			}
		}
		delete(m.bindings, tap)
		delete(m.wanted, tap)
		delete(m.flushed, tap)
		return nil
	})
}

func (m *machine) Verify(ctx context.Context) (drift []string, err error) {
	err = m.call(ctx, "Verify", func() error {
		for tap := range m.wanted {
			if _, ok := m.bindings[tap]; !ok || m.flushed[tap] {
				drift = append(drift, tap+" is gone")
			}
		}
		return nil
	})
	return drift, err
}

func (m *machine) GuardBridge(ctx context.Context) error {
	return m.call(ctx, "GuardBridge", func() error { return nil })
}

// --- files and images

func (m *machine) Prepare(ctx context.Context, _ []imagestore.Volume) error {
	return m.call(ctx, "Prepare", func() error { return nil })
}

func (m *machine) file(key, name string) (f imagestore.File) {
	if m.dirs[key] == nil {
		m.dirs[key] = map[string]imagestore.File{}
	}
	f = imagestore.File{Path: "/capsules/" + key + "/" + name, Format: imagestore.Raw, Method: "reflink"}
	m.dirs[key][name] = f
	return f
}

func (m *machine) Clone(ctx context.Context, key string, d imagestore.Digest, size int64) (f imagestore.File, err error) {
	err = m.call(ctx, "Clone", func() error {
		if _, ok := m.images[d]; !ok {
			return imagestore.ErrNotFound
		}
		f = m.file(key, "disk")
		m.grown = size
		return nil
	})
	return f, err
}

func (m *machine) CloneVolume(ctx context.Context, key string, v imagestore.Volume) (f imagestore.File, err error) {
	err = m.call(ctx, "CloneVolume", func() error { f = m.file(key, v.Name); return nil })
	return f, err
}

func (m *machine) Files(ctx context.Context, key string) (all map[string]imagestore.File, err error) {
	err = m.call(ctx, "Files", func() error { all = maps.Clone(m.dirs[key]); return nil })
	return all, err
}

func (m *machine) SerialLog(key string) string { return "/capsules/" + key + "/serial.log" }

func (m *machine) Erase(ctx context.Context, key string) error {
	return m.call(ctx, "Erase", func() error {
		if d := m.domains[domain.ID(key)]; d != nil && d.state != domain.Off {
			return errors.New("erased under a running domain")
		}
		delete(m.dirs, key)
		delete(m.points, domain.ID(key))
		return nil
	})
}

func (m *machine) Keys(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.dirs)), nil
}

func (m *machine) FreeBytes(context.Context, int64) (int64, error) { return 1 << 40, nil }

func (m *machine) Import(ctx context.Context, path string, p imagestore.Progress) (i imagestore.Image, err error) {
	if err := m.waits(ctx, "Import"); err != nil {
		return i, err
	}
	err = m.call(ctx, "Import", func() error {
		p("copy", 1, 2)
		var ok bool
		if i, ok = m.sources[path]; !ok {
			return fmt.Errorf("%w: no such file", imagestore.ErrInvalid)
		}
		m.images[i.Digest] = i
		return nil
	})
	return i, err
}

func (m *machine) Stat(ctx context.Context, d imagestore.Digest) (i imagestore.Image, err error) {
	err = m.call(ctx, "Stat", func() error {
		var ok bool
		if i, ok = m.images[d]; !ok {
			return imagestore.ErrNotFound
		}
		return nil
	})
	return i, err
}

func (m *machine) Remove(ctx context.Context, d imagestore.Digest) error {
	return m.call(ctx, "Remove", func() error { delete(m.images, d); return nil })
}

func (m *machine) Sweep(ctx context.Context, images map[imagestore.Digest]bool, keys map[string]bool) (removed []string, err error) {
	err = m.call(ctx, "Sweep", func() error {
		maps.DeleteFunc(m.images, func(d imagestore.Digest, _ imagestore.Image) bool { return !images[d] })
		maps.DeleteFunc(m.dirs, func(k string, _ map[string]imagestore.File) bool { return !keys[k] })
		return nil
	})
	return nil, err
}
