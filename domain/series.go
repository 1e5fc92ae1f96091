package domain

import (
	"github.com/prometheus/client_golang/prometheus"
	"libvirt.org/go/libvirt"
)

// The names, labels and units of the libvirt_* series are those of the libvirt exporters that are in use, so
// that their dashboards and alerts work unchanged. Every label is written by us or by libvirt: none is a string
// that a guest chose.

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// row is one series per T: a domain, a virtual CPU, a disk, an interface.
type row[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	scale float64 // from libvirt's unit to the base unit
	value func(*T) (uint64, bool)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("libvirt_"+name, help, labels, nil)
}

func perDomain(name, help string) *prometheus.Desc { return desc("domain_"+name, help, "domain") }
func perCPU(name, help string) *prometheus.Desc {
	return desc("domain_vcpu_"+name, help, "domain", "vcpu")
}
func perDisk(name, help string) *prometheus.Desc {
	return desc("domain_block_stats_"+name, help, "domain", "target_device")
}
func perInterface(name, help string) *prometheus.Desc {
	return desc("domain_interface_stats_"+name, help, "domain", "target_device")
}

const (
	nano = 1e-9
	kibi = 1024
)

var (
	upDesc       = desc("up", "Whether the last collection of libvirt's statistics succeeded.")
	domainsDesc  = desc("domains", "Number of domains of this daemon.")
	timedOutDesc = perDomain("timed_out", "Whether libvirt had no statistics for the running domain because it was busy.")
	infoDesc     = desc("domain_info", "The domain's kind of machine; always 1.", "domain", "os_type", "os_type_machine", "os_type_arch")
	stateDesc    = desc("domain_info_state", "The domain's state, by libvirt's number.", "domain", "state_desc")
	ownerDesc    = desc("domain_openstack_info", "Whose domain it is; always 1.", "domain", "instance_name", "instance_id",
		"flavor_name", "user_name", "user_id", "project_name", "project_id")
	diskInfoDesc = desc("domain_block_stats_info", "The disk's configuration; always 1.", "domain", "disk_type", "driver_cache",
		"driver_discard", "driver_name", "driver_type", "serial", "source_file", "target_bus", "target_device")
	interfaceInfoDesc = desc("domain_interface_stats_info", "The interface's configuration; always 1.", "domain", "interface_type",
		"mac_address", "model_type", "mtu_size", "source_bridge", "target_device")
	usedDesc       = perDomain("memory_stats_used_percent", "Memory that the guest uses, of what it sees.")
	cpuCountDesc   = perDomain("info_virtual_cpus", "Number of virtual CPUs.")
	cpuCurrentDesc = perDomain("vcpu_current", "Number of virtual CPUs online.")
	cpuMaximumDesc = perDomain("vcpu_maximum", "Number of virtual CPUs that the domain may have.")
)

var cpuRows = []row[libvirt.DomainStatsCPU]{
	{perDomain("info_cpu_time_seconds_total", "CPU time used by the domain."), counter, nano, func(c *libvirt.DomainStatsCPU) (uint64, bool) { return c.Time, c.TimeSet }},
}

type balloon = libvirt.DomainStatsBalloon

// memoryRows are what the host knows of a domain's memory; toldRows what the guest says of it, or decides by its balloon.
var memoryRows = []row[balloon]{
	{perDomain("info_maximum_memory_bytes", "Memory that the domain may have."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Maximum, b.MaximumSet }},
	{perDomain("memory_stats_maximum_bytes", "Memory that the domain may have."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Maximum, b.MaximumSet }},
	{perDomain("memory_stats_rss_bytes", "Memory of the host that the process occupies."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Rss, b.RssSet }},
}

var toldRows = []row[balloon]{
	{perDomain("info_memory_usage_bytes", "Memory that the domain has."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Current, b.CurrentSet }},
	{perDomain("memory_stats_current_balloon_bytes", "Memory that the balloon leaves the domain."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Current, b.CurrentSet }},
	{perDomain("memory_stats_available_bytes", "Memory that the guest sees."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Available, b.AvailableSet }},
	{perDomain("memory_stats_unused_bytes", "Memory that the guest leaves unused."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Unused, b.UnusedSet }},
	{perDomain("memory_stats_usable_bytes", "Memory that the guest could free without swapping."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.Usable, b.UsableSet }},
	{perDomain("memory_stats_disk_caches_bytes", "Memory that the guest uses for disk caches."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.DiskCaches, b.DiskCachesSet }},
	{perDomain("memory_stats_swap_in_bytes", "Memory that the guest has read from swap."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.SwapIn, b.SwapInSet }},
	{perDomain("memory_stats_swap_out_bytes", "Memory that the guest has written to swap."), gauge, kibi, func(b *balloon) (uint64, bool) { return b.SwapOut, b.SwapOutSet }},
	{perDomain("memory_stats_major_fault_total", "Page faults of the guest that needed its disk."), counter, 1, func(b *balloon) (uint64, bool) { return b.MajorFault, b.MajorFaultSet }},
	{perDomain("memory_stats_minor_fault_total", "Page faults of the guest that did not."), counter, 1, func(b *balloon) (uint64, bool) { return b.MinorFault, b.MinorFaultSet }},
	{perDomain("memory_stats_last_update_timestamp_seconds", "When the guest last told its memory figures."), gauge, 1, func(b *balloon) (uint64, bool) { return b.LastUpdate, b.LastUpdateSet }},
}

type vcpu = libvirt.DomainStatsVcpu

var vcpuRows = []row[vcpu]{
	{perCPU("state", "State of the virtual CPU: 0 offline, 1 running, 2 blocked."), gauge, 1, func(v *vcpu) (uint64, bool) { return uint64(v.State), v.StateSet }},
	{perCPU("time_seconds_total", "CPU time that the virtual CPU used."), counter, nano, func(v *vcpu) (uint64, bool) { return v.Time, v.TimeSet }},
	{perCPU("wait_seconds_total", "Time that the virtual CPU wanted to run and waited for I/O."), counter, nano, func(v *vcpu) (uint64, bool) { return v.Wait, v.WaitSet }},
	{perCPU("delay_seconds_total", "Time that the virtual CPU wanted to run and the host had no CPU for it."), counter, nano, func(v *vcpu) (uint64, bool) { return v.Delay, v.DelaySet }},
}

type block = libvirt.DomainStatsBlock

var blockRows = []row[block]{
	{perDisk("read_bytes_total", "Bytes read."), counter, 1, func(b *block) (uint64, bool) { return b.RdBytes, b.RdBytesSet }},
	{perDisk("read_requests_total", "Read requests."), counter, 1, func(b *block) (uint64, bool) { return b.RdReqs, b.RdReqsSet }},
	{perDisk("read_time_seconds_total", "Time spent on reads."), counter, nano, func(b *block) (uint64, bool) { return b.RdTimes, b.RdTimesSet }},
	{perDisk("write_bytes_total", "Bytes written."), counter, 1, func(b *block) (uint64, bool) { return b.WrBytes, b.WrBytesSet }},
	{perDisk("write_requests_total", "Write requests."), counter, 1, func(b *block) (uint64, bool) { return b.WrReqs, b.WrReqsSet }},
	{perDisk("write_time_seconds_total", "Time spent on writes."), counter, nano, func(b *block) (uint64, bool) { return b.WrTimes, b.WrTimesSet }},
	{perDisk("flush_requests_total", "Flush requests."), counter, 1, func(b *block) (uint64, bool) { return b.FlReqs, b.FlReqsSet }},
	{perDisk("flush_time_seconds_total", "Time spent on flushes."), counter, nano, func(b *block) (uint64, bool) { return b.FlTimes, b.FlTimesSet }},
	{perDisk("capacity_bytes", "Size of the disk that the guest sees."), gauge, 1, func(b *block) (uint64, bool) { return b.Capacity, b.CapacitySet }},
}

type nicStats = libvirt.DomainStatsNet

var interfaceRows = []row[nicStats]{
	{perInterface("receive_bytes_total", "Bytes that the guest received."), counter, 1, func(n *nicStats) (uint64, bool) { return n.RxBytes, n.RxBytesSet }},
	{perInterface("receive_packets_total", "Packets that the guest received."), counter, 1, func(n *nicStats) (uint64, bool) { return n.RxPkts, n.RxPktsSet }},
	{perInterface("receive_errors_total", "Errors on the way to the guest."), counter, 1, func(n *nicStats) (uint64, bool) { return n.RxErrs, n.RxErrsSet }},
	{perInterface("receive_drops_total", "Packets dropped on the way to the guest."), counter, 1, func(n *nicStats) (uint64, bool) { return n.RxDrop, n.RxDropSet }},
	{perInterface("transmit_bytes_total", "Bytes that the guest sent."), counter, 1, func(n *nicStats) (uint64, bool) { return n.TxBytes, n.TxBytesSet }},
	{perInterface("transmit_packets_total", "Packets that the guest sent."), counter, 1, func(n *nicStats) (uint64, bool) { return n.TxPkts, n.TxPktsSet }},
	{perInterface("transmit_errors_total", "Errors on the way from the guest."), counter, 1, func(n *nicStats) (uint64, bool) { return n.TxErrs, n.TxErrsSet }},
	{perInterface("transmit_drops_total", "Packets dropped on the way from the guest."), counter, 1, func(n *nicStats) (uint64, bool) { return n.TxDrop, n.TxDropSet }},
}

// stateTexts are the exporters' descriptions of libvirt's states.
var stateTexts = map[libvirt.DomainState]string{
	libvirt.DOMAIN_NOSTATE:     "no state",
	libvirt.DOMAIN_RUNNING:     "the domain is running",
	libvirt.DOMAIN_BLOCKED:     "the domain is blocked on resource",
	libvirt.DOMAIN_PAUSED:      "the domain is paused by user",
	libvirt.DOMAIN_SHUTDOWN:    "the domain is being shut down",
	libvirt.DOMAIN_SHUTOFF:     "the domain is shut off",
	libvirt.DOMAIN_CRASHED:     "the domain is crashed",
	libvirt.DOMAIN_PMSUSPENDED: "the domain is suspended by guest power management",
}

// descs lists every series that a collection may give.
func descs() []*prometheus.Desc {
	list := []*prometheus.Desc{upDesc, domainsDesc, timedOutDesc, infoDesc, stateDesc, ownerDesc, diskInfoDesc,
		interfaceInfoDesc, usedDesc, cpuCountDesc, cpuCurrentDesc, cpuMaximumDesc}
	list = appendDescs(list, cpuRows)
	list = appendDescs(list, memoryRows)
	list = appendDescs(list, toldRows)
	list = appendDescs(list, vcpuRows)
	list = appendDescs(list, blockRows)
	return appendDescs(list, interfaceRows)
}

func appendDescs[T any](list []*prometheus.Desc, rows []row[T]) []*prometheus.Desc {
	for _, r := range rows {
		list = append(list, r.desc)
	}
	return list
}
