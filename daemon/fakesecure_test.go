package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/imagestore"
)

// The part of the machine that secure mode is about. It keeps account of where protected data may have gone, and of
// every instant at which a promise was broken.

// memory is what the RAM of a machine may hold.
type memory struct {
	stained bool // protected data
	disk    int  // fakeDomain.written when it was saved: an older disk or a younger one does not fit it
}

type fakePoint struct {
	overlay bool
	ram     *memory // nil when there is no file
}

func (d *fakeDomain) end(r domain.Reason) {
	d.state, d.reason, d.live, d.ram = domain.Off, r, nil, memory{}
}

func overlayOf(id domain.ID) string { return "/capsules/" + string(id) + "/overlay.qcow2" }

// onOwnDisk says that what the machine writes stays.
func (d *fakeDomain) onOwnDisk() bool {
	return len(d.live) > 0 && d.live[0].Path != overlayOf(d.spec.ID)
}

func (d *fakeDomain) hasData() bool { return len(d.live) > 1 }

// run lets a machine run: it reads what is attached, and writes what it has read.
func (m *machine) run(d *fakeDomain) {
	d.state = domain.Running
	if d.hasData() {
		d.ram.stained = true
	}
	m.logs[d.spec.Name] = m.logs[d.spec.Name] || d.ram.stained // its guest has QEMU complain
	if d.onOwnDisk() {
		d.written++
		d.stained = d.stained || d.ram.stained
	}
}

// promises is called after each effect: it looks at every machine as a sampler would.
func (m *machine) promises(call string) {
	broken := func(format string, args ...any) {
		m.broken = append(m.broken, "after "+call+": "+fmt.Sprintf(format, args...))
	}
	for id, d := range m.domains {
		b := m.bindings[d.spec.NIC.Tap]
		secure := b.Policy == firewall.Closed || m.policies[b.Policy].Secure
		if d.hasData() && !secure {
			broken("P1: %s has data attached under policy %q", id, b.Policy)
		}
		if d.state == domain.Running && d.ram.stained && !secure {
			broken("P1: %s holds data in memory under policy %q", id, b.Policy)
		}
		if d.stained {
			broken("P2: %s wrote data to its own disk", id)
		}
		if d.state == domain.Running && d.onOwnDisk() && d.ram.stained {
			broken("P2: %s runs on its own disk with data in memory", id)
		}
		for _, disk := range d.spec.Disks {
			if disk.Serial != "disk" {
				broken("P3: %s is defined with %s", id, disk.Serial)
			}
		}
	}
}

// --- domains

func (m *machine) Inspect(ctx context.Context, id domain.ID) (seen domain.Inspection, err error) {
	err = m.call(ctx, "Inspect", m.away(func() error {
		d := m.seen(id)
		if d == nil {
			return domain.ErrNotFound
		}
		seen = domain.Inspection{State: d.state, Reason: d.reason, Defined: devices(d, d.spec.Disks), DefinedHash: "defined"}
		if d.state != domain.Off {
			seen.Live, seen.LiveHash = devices(d, d.live), "live"
			if a := m.alien[id]; a != "" {
				seen.Live.Foreign = []string{a}
			}
		}
		return nil
	}))
	return seen, err
}

func devices(d *fakeDomain, disks []domain.Disk) *domain.Devices {
	v := &domain.Devices{Graphics: []string{fmt.Sprintf("vnc %s:%d", d.spec.VNC.Listen, d.spec.VNC.Port)}, NICs: []domain.NICSeen{{Network: d.spec.NIC.Network, Tap: d.spec.NIC.Tap, MAC: d.spec.NIC.MAC.String(), LinkUp: true, Isolated: true}}}
	for _, disk := range disks {
		seen := domain.DiskSeen{Path: disk.Path, Serial: disk.Serial}
		for b := disk.Backing; b != nil; b = b.Backing {
			seen.Chain = append(seen.Chain, b.Path)
		}
		v.Disks = append(v.Disks, seen)
	}
	return v
}

func (m *machine) Checkpoint(ctx context.Context, id domain.ID, cp domain.CleanPoint) error {
	return m.call(ctx, "Checkpoint", m.away(func() error {
		d, p := m.domains[id], m.points[id]
		switch {
		case d == nil || d.state == domain.Off:
			return domain.ErrConflict
		case d.live[0].Path == cp.Overlay:
			return nil
		case p == nil || !p.overlay:
			return errors.New("there is no overlay")
		case d.hasData():
			m.broken = append(m.broken, "P2: a clean point was taken with data attached")
		}
		p.ram = &memory{stained: d.ram.stained, disk: d.written}
		overlay := domain.Disk{Path: cp.Overlay, Format: "qcow2", Serial: "disk", Backing: &domain.BackingFile{Path: d.live[0].Path}}
		d.live[0] = overlay
		d.spec.Disks = []domain.Disk{overlay} // as libvirt does
		return nil
	}))
}

func (m *machine) AwaitJob(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "AwaitJob", m.away(func() error {
		if d := m.domains[id]; d == nil || d.state == domain.Off {
			return domain.ErrConflict
		}
		return nil
	}))
}

func (m *machine) Restorable(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Restorable", m.away(func() error {
		if m.older[id] {
			return domain.ErrConflict
		}
		return nil
	}))
}

func (m *machine) Restore(ctx context.Context, s domain.Spec, ram string) error {
	return m.call(ctx, "Restore", m.away(func() error {
		d, p := m.domains[s.ID], m.points[s.ID]
		switch {
		case d == nil:
			return domain.ErrNotFound
		case d.state != domain.Off:
			return domain.ErrConflict
		case p == nil || p.ram == nil:
			return domain.ErrUnusable
		case p.ram.disk != d.written:
			m.broken = append(m.broken, "a machine was restored that had run on its disk since")
		}
		d.live, d.ram, d.state, d.reason = slices.Clone(s.Disks), *p.ram, domain.Paused, domain.ReasonNone
		m.consoles[s.ID] = s.VNC.Password
		return nil
	}))
}

func (m *machine) Attach(ctx context.Context, id domain.ID, disk domain.Disk) error {
	return m.call(ctx, "Attach", m.away(func() error {
		d := m.domains[id]
		if d == nil || d.state == domain.Off {
			return domain.ErrConflict
		}
		if slices.ContainsFunc(d.live, func(have domain.Disk) bool { return have.Serial == disk.Serial }) {
			return nil
		}
		d.live = append(d.live, disk)
		if d.state == domain.Running {
			m.run(d)
		}
		return nil
	}))
}

func (m *machine) Pause(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Pause", m.away(func() error {
		d := m.seen(id)
		if d == nil || d.state == domain.Off {
			return domain.ErrConflict
		}
		d.state = domain.Paused
		return nil
	}))
}

func (m *machine) Resume(ctx context.Context, id domain.ID) error {
	return m.call(ctx, "Resume", m.away(func() error {
		d := m.seen(id)
		if d == nil || d.state == domain.Off {
			return domain.ErrConflict
		}
		if d.state == domain.Paused {
			m.run(d)
		}
		return nil
	}))
}

func (m *machine) SetPassword(ctx context.Context, id domain.ID, password string) error {
	return m.call(ctx, "SetPassword", m.away(func() error { m.consoles[id] = password; return nil }))
}

func (m *machine) Quiet(ctx context.Context, id domain.ID, quiet bool) error {
	return m.call(ctx, "Quiet", m.away(func() error {
		if m.lost[id] == asGone {
			return domain.ErrNotFound
		}
		m.quiet[id] = quiet
		return nil
	}))
}

func (m *machine) DropLog(ctx context.Context, name string) error {
	return m.call(ctx, "DropLog", func() error {
		for _, d := range m.domains {
			if d.spec.Name == name && d.state != domain.Off {
				return errors.New("the log of a running domain was dropped")
			}
		}
		delete(m.logs, name)
		return nil
	})
}

// guest fails what a guest would be asked that does not answer.
func (m *machine) guest() error {
	if m.mute {
		return domain.ErrUnresponsive
	}
	return nil
}

func (m *machine) GuestMount(ctx context.Context, _ domain.ID, _ []domain.Mount) error {
	return m.call(ctx, "GuestMount", m.guest)
}

// guestNumber is what the guest chose to answer.
const guestNumber = 23438578512385079

func (m *machine) Freeze(ctx context.Context, id domain.ID) (int, error) {
	return guestNumber, m.call(ctx, "Freeze", func() error { m.frozen[id] = !m.mute; return m.guest() })
}

func (m *machine) Thaw(ctx context.Context, id domain.ID) (int, error) {
	return guestNumber, m.call(ctx, "Thaw", func() error { m.frozen[id] = m.frozen[id] && m.mute; return m.guest() })
}

func (m *machine) SetClock(ctx context.Context, _ domain.ID, _ time.Time) error {
	return m.call(ctx, "SetClock", m.guest)
}

// --- fences

func (m *machine) SetPolicies(ctx context.Context, all []policy.Policy) error {
	return m.call(ctx, "SetPolicies", func() error {
		m.policies = map[string]policy.Policy{}
		for _, p := range all {
			m.policies[p.Name] = p
		}
		return nil
	})
}

func (m *machine) Inspect2(ctx context.Context, tap string) (e firewall.Evidence, err error) {
	m.looking.Add(1)
	err = m.call(ctx, "InspectFence", func() error {
		e = firewall.Evidence{Policy: m.bindings[tap].Policy, Hash: "rules", Link: firewall.LinkDown, Port: firewall.IsolatedPort, Flows: 2, Denied: firewall.Count{Packets: 7}, DeniedByBridge: firewall.Count{Packets: 4}}
		if e.Policy == firewall.Closed { // they were cut
			e.Flows = 0
		}
		if m.flushed[tap] {
			e.Link, e.LinkDifference = firewall.LinkUp, "link up"
			e.Differences = []string{"rules are missing", "link up"}
		}
		return nil
	})
	return e, err
}

func (m *machine) InspectAll(ctx context.Context) (map[string]firewall.Evidence, error) {
	m.mu.Lock()
	taps := slices.Collect(maps.Keys(m.bindings))
	m.mu.Unlock()
	all := map[string]firewall.Evidence{}
	for _, tap := range taps {
		e, err := m.Inspect2(ctx, tap)
		if err != nil {
			return nil, err
		}
		all[tap] = e
	}
	return all, nil
}

// Shut changes no binding: what it takes down the Put behind it takes down too.
func (m *machine) Shut(string) error { return nil }

func (m *machine) Cut(ctx context.Context, _ string) (int, error) {
	return 0, m.call(ctx, "Cut", func() error { return nil })
}

// policyFiles are the policies of the host; the secure ones let nothing out.
func (m *machine) policyFiles() ([]policy.Policy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []policy.Policy{{Name: "maintenance"}, {Name: "secure", Secure: true}, {Name: "secure-full", Secure: true}, {Name: "secure-admin", Secure: true}}
	for _, p := range all {
		m.policies[p.Name] = p
	}
	return all, nil
}

func (m *machine) disconnect(ctx context.Context, _ ...uint16) (int, error) {
	return 1, m.call(ctx, "Disconnect", func() error { return nil })
}

func (m *machine) Changes(context.Context) <-chan struct{} { return nil }

func (m *machine) Conflicts(context.Context) ([]firewall.Conflict, error) { return nil, nil }

// fencesOf is the machine as a firewall: both of its parts have an Inspect.
type fencesOf struct{ *machine }

func (f fencesOf) Inspect(ctx context.Context, tap string) (firewall.Evidence, error) {
	return f.machine.Inspect2(ctx, tap)
}

// --- files

func (m *machine) point(key string) *fakePoint {
	id := domain.ID(key)
	if m.points[id] == nil {
		m.points[id] = &fakePoint{}
	}
	return m.points[id]
}

func (m *machine) cleanPointOf(key string) (imagestore.CleanPoint, error) {
	disk, ok := m.dirs[key]["disk"]
	if !ok {
		return imagestore.CleanPoint{}, imagestore.ErrNotFound
	}
	p, stamp := m.point(key), "none"
	if d := m.domains[domain.ID(key)]; d != nil {
		stamp = fmt.Sprintf("written %d times", d.written)
	}
	return imagestore.CleanPoint{Disk: disk, Overlay: overlayOf(domain.ID(key)), RAM: "/capsules/" + key + "/clean.ram", Stamp: stamp,
		HaveOverlay: p.overlay, HaveRAM: p.ram != nil}, nil
}

func (m *machine) CleanPoint(ctx context.Context, key string) (cp imagestore.CleanPoint, err error) {
	err = m.call(ctx, "CleanPoint", func() (err error) { cp, err = m.cleanPointOf(key); return err })
	return cp, err
}

func (m *machine) PrepareCleanPoint(ctx context.Context, key string, _ int64) (cp imagestore.CleanPoint, err error) {
	err = m.call(ctx, "PrepareCleanPoint", func() (err error) {
		if d := m.domains[domain.ID(key)]; d != nil && len(d.live) > 0 && !d.onOwnDisk() {
			m.broken = append(m.broken, "an overlay was replaced under a running machine")
		}
		*m.point(key) = fakePoint{overlay: true}
		cp, err = m.cleanPointOf(key)
		return err
	})
	return cp, err
}

func (m *machine) DropOverlay(ctx context.Context, key string) error {
	return m.call(ctx, "DropOverlay", func() error {
		if d := m.domains[domain.ID(key)]; d != nil && len(d.live) > 0 && !d.onOwnDisk() {
			m.broken = append(m.broken, "an overlay was dropped under a running machine")
		}
		m.point(key).overlay = false
		return nil
	})
}

func (m *machine) DropRAM(ctx context.Context, key string) error {
	return m.call(ctx, "DropRAM", func() error { m.point(key).ram = nil; return nil })
}

func (m *machine) DropSerialLog(ctx context.Context, _ string) error {
	return m.call(ctx, "DropSerialLog", func() error { return nil })
}

func (m *machine) OpenBy(ctx context.Context, key string, only ...string) (h []imagestore.Holder, err error) {
	err = m.call(ctx, "OpenBy", func() error {
		if m.ends[domain.ID(key)] > 0 {
			m.ends[domain.ID(key)]--
			h = append(h, imagestore.Holder{PID: 1, Disk: "disk", Write: true})
		}
		if d := m.domains[domain.ID(key)]; d != nil && d.state != domain.Off {
			for _, disk := range d.live {
				name := disk.Serial
				if disk.Path == overlayOf(domain.ID(key)) {
					name = "overlay"
				}
				if slices.Contains(only, name) {
					h = append(h, imagestore.Holder{PID: 1, Disk: name, Write: true})
				}
			}
		}
		return nil
	})
	return h, err
}
