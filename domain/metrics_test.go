package domain_test

import (
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// metered is a Host whose statistics are collected all the time.
func metered(t *testing.T) (*domain.Host, *prometheus.Registry) {
	reg := prometheus.NewPedanticRegistry()
	return open(t, func(o *domain.Options) { o.Registerer, o.StatsInterval = reg, 50*time.Millisecond }), reg
}

// sample is one series of a scrape.
type sample struct {
	labels map[string]string
	value  float64
}

type scrape map[string][]sample

// scraped gathers until the scrape is as wanted.
func scraped(t *testing.T, reg *prometheus.Registry, what string, is func(scrape) bool) scrape {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		families, err := reg.Gather()
		noErr(t, "gather", err)
		got := scrape{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				one := sample{map[string]string{}, m.GetGauge().GetValue() + m.GetCounter().GetValue()}
				for _, l := range m.GetLabel() {
					one.labels[l.GetName()] = l.GetValue()
				}
				got[f.GetName()] = append(got[f.GetName()], one)
			}
		}
		if is(got) {
			return got
		}
	}
	t.Fatalf("never: %s", what)
	return nil
}

// of finds the value of a domain's series.
func of(got scrape, name, dom string) (float64, bool) {
	for _, m := range got[name] {
		if m.labels["domain"] == dom {
			return m.value, true
		}
	}
	return 0, false
}

func TestMetrics(t *testing.T) {
	h, reg := metered(t)
	s := newSpec(t, h, "cap-meter", idle)
	running(t, h, s)
	got := scraped(t, reg, "statistics of the domain", func(got scrape) bool {
		_, ok := of(got, "libvirt_domain_block_stats_read_bytes_total", s.Name)
		cpu, _ := of(got, "libvirt_domain_info_cpu_time_seconds_total", s.Name)
		return ok && cpu > 0
	})
	for _, name := range []string{
		"libvirt_up", "libvirt_domains", "libvirt_domain_info", "libvirt_domain_info_state", "libvirt_domain_openstack_info",
		"libvirt_domain_timed_out", "libvirt_domain_info_cpu_time_seconds_total", "libvirt_domain_info_virtual_cpus",
		"libvirt_domain_info_maximum_memory_bytes", "libvirt_domain_info_memory_usage_bytes", "libvirt_domain_memory_stats_rss_bytes",
		"libvirt_domain_vcpu_current", "libvirt_domain_vcpu_time_seconds_total", "libvirt_domain_vcpu_delay_seconds_total",
		"libvirt_domain_block_stats_write_requests_total", "libvirt_domain_block_stats_flush_time_seconds_total",
		"libvirt_domain_block_stats_capacity_bytes", "libvirt_domain_block_stats_info", "libvirt_domain_interface_stats_receive_bytes_total",
		"libvirt_domain_interface_stats_info", "capsuled_libvirt_connected", "capsuled_libvirt_call_duration_seconds",
	} {
		if len(got[name]) == 0 {
			t.Errorf("no %s", name)
		}
	}
	if v, _ := of(got, "libvirt_domain_info_maximum_memory_bytes", s.Name); v != float64(s.MemoryBytes) {
		t.Errorf("maximum memory of %v bytes", v)
	}
	if v, _ := of(got, "libvirt_domain_block_stats_capacity_bytes", s.Name); v != 1<<20 {
		t.Errorf("disk of %v bytes", v)
	}
	owner := got["libvirt_domain_openstack_info"][0]
	for name, want := range map[string]string{"instance_id": s.Record, "user_name": "alice", "user_id": "alice", "project_name": "hathi", "flavor_name": "small"} {
		if owner.labels[name] != want {
			t.Errorf("%s is %q", name, owner.labels[name])
		}
	}
	if m := got["libvirt_domain_interface_stats_info"][0]; m.labels["target_device"] != s.NIC.Tap || m.labels["source_bridge"] != capsNet.Bridge {
		t.Errorf("interface: %v", m)
	}
	lint(t, reg)

	// What is gone from libvirt is gone from the scrape; what is off has a state and no more.
	noErr(t, "destroy", h.Destroy(t.Context(), s.ID))
	got = scraped(t, reg, "the domain off", func(got scrape) bool {
		state, _ := of(got, "libvirt_domain_info_state", s.Name)
		return state == 5
	})
	if _, there := of(got, "libvirt_domain_info_cpu_time_seconds_total", s.Name); there {
		t.Error("a domain that is off has CPU time")
	}
	noErr(t, "undefine", h.Undefine(t.Context(), s.ID))
	got = scraped(t, reg, "no domain", func(got scrape) bool {
		return len(got["libvirt_domains"]) == 1 && got["libvirt_domains"][0].value == 0
	})
	for name, list := range got {
		if slices.ContainsFunc(list, func(m sample) bool { return m.labels["domain"] != "" }) {
			t.Errorf("%s outlives its domain", name)
		}
	}
}

func TestMetricsEndWithTheHost(t *testing.T) {
	h, reg := metered(t)
	_, err := domain.Open(domain.Options{Log: slog.New(slog.DiscardHandler), Registerer: reg})
	if err == nil {
		t.Error("two hosts on one registry")
	}
	noErr(t, "close", h.Close())
	if left, _ := reg.Gather(); len(left) > 0 {
		t.Errorf("%d families outlive the host", len(left))
	}
}

// lint checks the names that are ours to choose; the libvirt_* ones are the exporters'.
func lint(t *testing.T, reg *prometheus.Registry) {
	t.Helper()
	problems, err := testutil.GatherAndLint(reg)
	noErr(t, "lint", err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "capsuled_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestMetricsOfAStuckDomain: one QEMU that hangs costs its own statistics, and nobody else's.
func TestMetricsOfAStuckDomain(t *testing.T) {
	h, reg := metered(t)
	good, bad := newSpec(t, h, "cap-well", idle), newSpec(t, h, "cap-stuck", idle)
	running(t, h, good)
	running(t, h, bad)
	noErr(t, "stop", syscall.Kill(qemuPid(t, bad.Name), syscall.SIGSTOP))
	got := scraped(t, reg, "the stuck domain timed out", func(got scrape) bool {
		late, _ := of(got, "libvirt_domain_timed_out", bad.Name)
		return late == 1
	})
	if late, there := of(got, "libvirt_domain_timed_out", good.Name); !there || late != 0 {
		t.Error("the other one too")
	}
	if _, there := of(got, "libvirt_domain_block_stats_read_bytes_total", good.Name); !there {
		t.Error("the other one has no statistics")
	}
	noErr(t, "kill", syscall.Kill(qemuPid(t, bad.Name), syscall.SIGKILL))
	await(t, h, bad.ID, isOff)
}
