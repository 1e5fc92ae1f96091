package domain

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"libvirt.org/go/libvirt"
)

func one(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, gauge, v, labels...)
}

func up(v float64) prometheus.Metric      { return one(upDesc, v) }
func domainCount(n int) prometheus.Metric { return one(domainsDesc, float64(n)) }

// samples renders the rows that libvirt gave a value for.
func samples[T any](rows []row[T], of *T, labels ...string) []prometheus.Metric {
	var list []prometheus.Metric
	for _, r := range rows {
		if v, ok := r.value(of); ok {
			list = append(list, prometheus.MustNewConstMetric(r.desc, r.kind, float64(v)*r.scale, labels...))
		}
	}
	return list
}

// domainMetrics renders everything about one domain, and of a quiet one nothing that its guest made up.
func domainMetrics(f facts, s *libvirt.DomainStats, quiet bool) []prometheus.Metric {
	project := f.who.label("project")
	user := f.who.label("user")
	list := []prometheus.Metric{
		one(infoDesc, 1, f.name, f.osType, f.machine, f.arch),
		one(ownerDesc, 1, f.name, f.name, f.who.Record, f.who.label("flavor"),
			user, orElse(f.who.label("user_id"), user), project, orElse(f.who.label("project_id"), project)),
	}
	if s.State == nil {
		return list
	}
	list = append(list, one(stateDesc, float64(s.State.State), f.name, stateTexts[s.State.State]))
	if states[s.State.State] != Running && states[s.State.State] != Paused {
		return list
	}
	late := timedOut(s)
	list = append(list, one(timedOutDesc, late, f.name))
	if s.Cpu != nil {
		list = append(list, samples(cpuRows, s.Cpu, f.name)...)
	}
	if s.Balloon != nil {
		list = append(list, samples(memoryRows, s.Balloon, f.name)...)
	}
	if b := s.Balloon; b != nil && !quiet {
		list = append(list, samples(toldRows, b, f.name)...)
		if b.AvailableSet && b.UsableSet && b.Available > 0 {
			list = append(list, one(usedDesc, 100*(1-float64(b.Usable)/float64(b.Available)), f.name))
		}
	}
	list = append(list, cpuMetrics(f, s.Vcpu)...)
	list = append(list, diskMetrics(f, s.Block)...)
	return append(list, interfaceMetrics(f, s.Net)...)
}

// timedOut is 1 when libvirt passed over a domain that has a process: what it must ask QEMU for is missing.
func timedOut(s *libvirt.DomainStats) float64 {
	for i := range s.Block {
		if s.Block[i].RdReqsSet {
			return 0
		}
	}
	return 1
}

func cpuMetrics(f facts, cpus []libvirt.DomainStatsVcpu) []prometheus.Metric {
	var list []prometheus.Metric
	online := 0
	for i := range cpus {
		if cpus[i].StateSet {
			online++
		}
		list = append(list, samples(vcpuRows, &cpus[i], f.name, strconv.Itoa(i))...)
	}
	return append(list,
		one(cpuCountDesc, float64(len(cpus)), f.name),
		one(cpuCurrentDesc, float64(online), f.name),
		one(cpuMaximumDesc, float64(len(cpus)), f.name))
}

func diskMetrics(f facts, blocks []libvirt.DomainStatsBlock) []prometheus.Metric {
	var list []prometheus.Metric
	for i := range blocks {
		list = append(list, samples(blockRows, &blocks[i], f.name, blocks[i].Name)...)
	}
	for _, d := range f.disks {
		list = append(list, one(diskInfoDesc, 1, f.name, d.kind, d.cache, d.discard, d.driver, d.format, d.serial, d.source, d.bus, d.target))
	}
	return list
}

func interfaceMetrics(f facts, nets []libvirt.DomainStatsNet) []prometheus.Metric {
	var list []prometheus.Metric
	for i := range nets {
		list = append(list, samples(interfaceRows, &nets[i], f.name, nets[i].Name)...)
	}
	for _, n := range f.interfaces {
		list = append(list, one(interfaceInfoDesc, 1, f.name, n.kind, n.mac, n.model, n.mtu, n.bridge, n.target))
	}
	return list
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
