package domain

import (
	"context"
	"encoding/xml"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

const (
	collectTimeout = 10 * time.Second
	maxCollections = 4 // how many may hang, each on a domain of its own
	activeStats    = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_CPU_TOTAL | libvirt.DOMAIN_STATS_BALLOON | libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_INTERFACE | libvirt.DOMAIN_STATS_BLOCK
	activeOnly     = libvirt.CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
	inactiveOnly   = libvirt.CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE | libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
)

// facts are what a domain's description says for its labels. They are read again when an event tells that the
// domain changed.
type facts struct {
	ours       bool
	name       string
	who        identity
	osType     string
	machine    string
	arch       string
	disks      []diskFacts
	interfaces []interfaceFacts
	asked      bool // whether its guest is asked for its memory figures
}

type diskFacts struct{ kind, cache, discard, driver, format, serial, source, bus, target string }

type interfaceFacts struct{ kind, mac, model, mtu, bridge, target string }

// collectForever collects the statistics every interval, and once more whenever a connection is made.
func (h *Host) collectForever(ctx context.Context) {
	turns := make(lane, maxCollections)
	tick := time.NewTicker(h.opt.StatsInterval)
	defer tick.Stop()
	connected, done := h.watchers.watch("")
	defer done()
	for {
		select {
		case <-tick.C:
		case <-connected:
		case <-ctx.Done():
			return
		}
		if err := h.collect(ctx, turns); err != nil && ctx.Err() == nil {
			h.log.LogAttrs(ctx, slog.LevelWarn, "statistics not collected", slog.Any("error", err))
		}
	}
}

// collect reads all statistics and publishes them. When that fails, the domains' series go: a value that is no
// longer true is worse than none.
//
// It uses a connection of its own, read-only and for this one time. NOWAIT makes libvirt pass over a domain
// that is busy, but the first call that meets a QEMU that hangs will hang with it; the next one finds that
// domain busy and passes over it. So one such domain costs one hanging call, and none of the four places of
// the connection that everything else uses.
func (h *Host) collect(ctx context.Context, turns lane) error {
	if err := h.Connected(); err != nil {
		h.metrics.publish([]prometheus.Metric{up(0)})
		return nil // it is known, and logged
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	if err := turns.enter(ctx); err != nil {
		h.metrics.publish([]prometheus.Metric{up(0)})
		return wrap("statistics: earlier ones still hang", err)
	}
	type result struct {
		series []prometheus.Metric
		err    error
	}
	done := make(chan result, 1)
	go func() {
		defer turns.leave()
		defer h.metrics.observeCall("stats", time.Now())
		series, err := h.readStats()
		done <- result{series, err}
	}()
	r := result{}
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	if r.err != nil {
		r.series = []prometheus.Metric{up(0)}
	}
	h.metrics.publish(r.series)
	return wrap("statistics", r.err)
}

// readStats makes one call for all that run. Of those that are off only the state is read: for more, libvirtd
// would open their images and parse headers that a guest wrote.
func (h *Host) readStats() ([]prometheus.Metric, error) {
	conn, err := libvirt.NewConnectReadOnly(h.opt.URI)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetKeepAlive(keepaliveSeconds, keepaliveCount); err != nil {
		return nil, err
	}
	series := []prometheus.Metric{up(1)}
	count := 0
	seen := map[ID]bool{}
	for _, part := range []struct {
		types libvirt.DomainStatsTypes
		flags libvirt.ConnectGetAllDomainStatsFlags
	}{{activeStats, activeOnly}, {libvirt.DOMAIN_STATS_STATE, inactiveOnly}} {
		all, err := conn.GetAllDomainStats(nil, part.types, part.flags)
		if err != nil {
			return nil, err
		}
		for i := range all {
			s := &all[i]
			if f, id, ok := h.factsOf(s.Domain, seen); ok {
				count++
				series = append(series, domainMetrics(f, s, !f.asked || h.metrics.isQuiet(id))...)
			}
			_ = s.Domain.Free()
		}
	}
	return append(series, domainCount(count)), nil
}

// factsOf finds the facts of a domain, if it is ours and not counted yet: one that starts or stops between the
// two calls is in both.
func (h *Host) factsOf(d *libvirt.Domain, seen map[ID]bool) (facts, ID, bool) {
	uuid, err := d.GetUUIDString()
	id := ID(uuid)
	if err != nil || seen[id] {
		return facts{}, id, false
	}
	seen[id] = true
	f, age, ok := h.metrics.known(id)
	if !ok {
		if f, err = readFacts(d); err != nil {
			return facts{}, id, false // it is going, or coming: next time
		}
		h.metrics.remember(id, f, age)
	}
	return f, id, f.ours
}

func readFacts(d *libvirt.Domain) (facts, error) {
	who, err := identify(d)
	if isCode(err, libvirt.ERR_NO_DOMAIN_METADATA) {
		return facts{}, nil
	}
	if err != nil {
		return facts{}, err
	}
	doc, err := d.GetXMLDesc(0)
	if err != nil {
		return facts{}, err
	}
	var x libvirtxml.Domain
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return facts{}, err
	}
	f := facts{ours: true, name: x.Name, who: who}
	if x.OS != nil && x.OS.Type != nil {
		f.osType, f.machine, f.arch = x.OS.Type.Type, x.OS.Type.Machine, x.OS.Type.Arch
	}
	if x.Devices == nil {
		return f, nil
	}
	// A guest that is not asked can leave figures all the same, and what a process before this one knew is forgotten:
	// libvirt remembers who is asked.
	b := x.Devices.MemBalloon
	f.asked = b != nil && b.Stats != nil && b.Stats.Period > 0
	for _, disk := range x.Devices.Disks {
		f.disks = append(f.disks, factsOfDisk(disk))
	}
	for _, i := range x.Devices.Interfaces {
		f.interfaces = append(f.interfaces, factsOfInterface(i))
	}
	return f, nil
}

func factsOfDisk(x libvirtxml.DomainDisk) diskFacts {
	d := diskFacts{serial: x.Serial}
	if x.Driver != nil {
		d.cache, d.discard, d.driver, d.format = x.Driver.Cache, x.Driver.Discard, x.Driver.Name, x.Driver.Type
	}
	if x.Source != nil && x.Source.File != nil {
		d.kind, d.source = "file", x.Source.File.File
	}
	if x.Target != nil {
		d.bus, d.target = x.Target.Bus, x.Target.Dev
	}
	return d
}

func factsOfInterface(x libvirtxml.DomainInterface) interfaceFacts {
	i := interfaceFacts{}
	if x.Source != nil && x.Source.Network != nil {
		i.kind, i.bridge = "network", x.Source.Network.Bridge
	}
	if x.MAC != nil {
		i.mac = x.MAC.Address
	}
	if x.Model != nil {
		i.model = x.Model.Type
	}
	if x.MTU != nil {
		i.mtu = strconv.FormatUint(uint64(x.MTU.Size), 10)
	}
	if x.Target != nil {
		i.target = x.Target.Dev
	}
	return i
}
