package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/capsuled/capsuled/internal/rig"
)

// mine is in every string that a user chooses in TestMetrics, but for the guid.
const mine = "zqx"

// scrape reads /metrics as Prometheus would: over TCP, with the role.
func (h *host) scrape(t *testing.T) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	a := h.send(token(t, map[string]any{"sub": "prometheus", "roles": []string{"metrics"}}), "GET", "/metrics", "", "")
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("metrics: %+v", a)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(a.body))
	if err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return families, a.body
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.GetUntyped().GetValue()
}

// find returns the series of a family that have some labels: "name=value".
func find(families map[string]*dto.MetricFamily, family string, labels ...string) []*dto.Metric {
	var found []*dto.Metric
	for _, m := range families[family].GetMetric() {
		if !slices.ContainsFunc(labels, func(l string) bool { name, want, _ := strings.Cut(l, "="); return label(m, name) != want }) {
			found = append(found, m)
		}
	}
	return found
}

const gib = 1 << 30

// ofCapsule are the series of one running capsule of 256 MB and one processor, with what each may be.
var ofCapsule = []struct {
	family   string
	labels   []string
	min, max float64
}{
	{"libvirt_domain_info", []string{"os_type=hvm", "os_type_arch=x86_64"}, 1, 1},
	{"libvirt_domain_info_state", []string{"state_desc=the domain is running"}, 1, 1},
	{"libvirt_domain_openstack_info", []string{"user_name=alice", "user_id=alice", "flavor_name=1cpu-256mb"}, 1, 1},
	{"libvirt_domain_timed_out", nil, 0, 0},
	{"libvirt_domain_info_cpu_time_seconds_total", nil, 0.01, 1e4},
	{"libvirt_domain_info_virtual_cpus", nil, 1, 1},
	{"libvirt_domain_info_maximum_memory_bytes", nil, 256 << 20, 256 << 20},
	{"libvirt_domain_info_memory_usage_bytes", nil, 256 << 20, 256 << 20},
	{"libvirt_domain_memory_stats_maximum_bytes", nil, 256 << 20, 256 << 20},
	{"libvirt_domain_memory_stats_current_balloon_bytes", nil, 256 << 20, 256 << 20},
	{"libvirt_domain_memory_stats_rss_bytes", nil, 16 << 20, 4 * gib},
	{"libvirt_domain_vcpu_current", nil, 1, 1},
	{"libvirt_domain_vcpu_maximum", nil, 1, 1},
	{"libvirt_domain_vcpu_state", []string{"vcpu=0"}, 1, 1},
	{"libvirt_domain_vcpu_time_seconds_total", []string{"vcpu=0"}, 0.01, 1e4},
	{"libvirt_domain_vcpu_delay_seconds_total", []string{"vcpu=0"}, 0, 1e4},
	{"libvirt_domain_block_stats_info", []string{"target_device=vda", "target_bus=virtio", "disk_type=file", "serial=disk"}, 1, 1},
	{"libvirt_domain_block_stats_read_bytes_total", []string{"target_device=vda"}, 512, gib},
	{"libvirt_domain_block_stats_read_requests_total", []string{"target_device=vda"}, 1, 1e6},
	{"libvirt_domain_block_stats_read_time_seconds_total", []string{"target_device=vda"}, 1e-9, 1e4},
	{"libvirt_domain_block_stats_write_bytes_total", []string{"target_device=vda"}, 0, gib},
	{"libvirt_domain_block_stats_write_requests_total", []string{"target_device=vda"}, 0, 1e6},
	{"libvirt_domain_block_stats_write_time_seconds_total", []string{"target_device=vda"}, 0, 1e4},
	{"libvirt_domain_block_stats_flush_requests_total", []string{"target_device=vda"}, 0, 1e6},
	{"libvirt_domain_block_stats_flush_time_seconds_total", []string{"target_device=vda"}, 0, 1e4},
	{"libvirt_domain_block_stats_capacity_bytes", []string{"target_device=vda"}, 1 << 20, gib},
	{"libvirt_domain_interface_stats_info", []string{"source_bridge=capsbr0", "model_type=virtio"}, 1, 1},
	{"libvirt_domain_interface_stats_receive_bytes_total", nil, 0, gib},
	{"libvirt_domain_interface_stats_receive_packets_total", nil, 0, 1e6},
	{"libvirt_domain_interface_stats_receive_errors_total", nil, 0, 0},
	{"libvirt_domain_interface_stats_receive_drops_total", nil, 0, 1e6},
	{"libvirt_domain_interface_stats_transmit_bytes_total", nil, 0, gib},
	{"libvirt_domain_interface_stats_transmit_packets_total", nil, 0, 1e6},
	{"libvirt_domain_interface_stats_transmit_errors_total", nil, 0, 0},
	{"libvirt_domain_interface_stats_transmit_drops_total", nil, 0, 1e6},
	{"capsule_mode", []string{"mode=maintenance"}, 1, 1},
	{"capsule_mode", []string{"mode=secure"}, 0, 0},
}

// ofHost are the daemon's own series while one capsule runs.
var ofHost = []struct {
	family   string
	labels   []string
	min, max float64
}{
	{"libvirt_up", nil, 1, 1}, {"libvirt_domains", nil, 1, 1},
	{"capsuled_libvirt_connected", nil, 1, 1}, {"capsuled_libvirt_reconnects_total", nil, 0, 0},
	{"capsuled_libvirt_call_duration_seconds", []string{"call=stats"}, 1, 1e6},
	{"capsuled_operations", []string{"state=running", "kind=launch"}, 0, 0}, {"capsuled_operations", []string{"state=running", "kind=create"}, 0, 0},
	{"capsuled_operation_duration_seconds", []string{"kind=create"}, 1, 1}, {"capsuled_operation_duration_seconds", []string{"kind=launch"}, 1, 1},
	{"capsuled_operation_duration_seconds", []string{"kind=image-add"}, 1, 1},
	{"capsuled_clone_duration_seconds", []string{"method=overlay"}, 0, 10}, {"capsuled_clone_duration_seconds", []string{"method=reflink"}, 0, 10},
	{"capsuled_image_cache_bytes", nil, 1 << 20, gib},
	{"capsuled_orphans", []string{"kind=image"}, 0, 0}, {"capsuled_orphans", []string{"kind=clone"}, 0, 0},
	{"capsuled_reconcile_last_success_timestamp_seconds", nil, 1.7e9, 1e11},
	{"capsuled_build_info", nil, 1, 1}, {"capsuled_ready", nil, 1, 1},
	{"capsuled_capsules", []string{"state=RUNNING"}, 1, 1}, {"capsuled_images", []string{"state=ACTIVE"}, 1, 1},
	{"capsuled_firewall_bindings", []string{"policy=maintenance"}, 1, 1}, {"capsuled_firewall_differences", nil, 0, 0}, {"capsuled_firewall_failures_total", nil, 0, 0},
	{"capsuled_api_requests_total", []string{"route=POST /createvm", "code=200"}, 1, 1},
	{"process_resident_memory_bytes", nil, 1 << 20, gib}, {"go_goroutines", nil, 1, 1e4},
}

// TestMetrics scrapes a host with one running capsule: who may, what is there, and that it goes with the capsule.
func TestMetrics(t *testing.T) {
	h := startHost(t)
	problem(t, h.send("", "GET", "/metrics", "", ""), 401, "unauthorized")
	for _, roles := range [][]string{nil, {"Metrics"}, {"member", "metric"}} {
		problem(t, h.send(token(t, map[string]any{"roles": roles}), "GET", "/metrics", "", ""), 403, "forbidden", "role")
	}
	if a := h.ask(t, request{over: "unix", method: "GET", path: "/metrics"}); a.status != 200 {
		t.Errorf("over the socket: %+v", a)
	}
	image := h.ctl("image", "add", "--name", "image "+mine, "--description", mine, "--login-user", mine, "--public", h.guest.Qcow2)
	alice := token(t, map[string]any{"email": mine + "@example.org", "project": mine})
	f := url.Values{"imageid": {image}, "loginusername": {"u" + mine}, "loginpassword": {mine}, "memory": {"256"}}
	for _, field := range texts {
		f.Set(field, mine+"\"}\\n 1")
	}
	made := h.post(alice, "/createvm", f)
	h.wait(made)
	id := vmid(t, made)
	h.wait(h.post(alice, "/launchvm", url.Values{"vmid": {id}}))
	for _, path := range []string{"/" + mine, "/sloan-ws/" + mine, "/v1/operations/" + mine} {
		h.ask(t, request{path: path, method: "GET", header: http.Header{"X-Request-Id": {mine}, "User-Agent": {mine}, "X-Auth-Token": {alice}}})
	}
	families := h.awaitSeries(t, id)
	h.checkSeries(t, families, id)

	h.wait(h.post(alice, "/deletevm", url.Values{"vmid": {id}}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if _, text := h.scrape(t); strings.Contains(text, id[:8]) || strings.Contains(text, "libvirt_domain_") && strings.Contains(text, "{domain=") {
			return errors.New("series of a deleted capsule are still there")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// awaitSeries waits for a collection that saw the capsule's guest at work: it has read its disk.
func (h *host) awaitSeries(t *testing.T, id string) map[string]*dto.MetricFamily {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var families map[string]*dto.MetricFamily
	if err := rig.Until(ctx, func() error {
		families, _ = h.scrape(t)
		read := find(families, "libvirt_domain_block_stats_read_bytes_total", "domain=cap-"+id[:8])
		if len(read) != 1 || value(read[0]) == 0 {
			return fmt.Errorf("no series of the capsule at work: %v", read)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return families
}

func (h *host) checkSeries(t *testing.T, families map[string]*dto.MetricFamily, id string) {
	t.Helper()
	all := slices.Clone(ofHost)
	for _, s := range ofCapsule {
		s.labels = append(slices.Clone(s.labels), "domain=cap-"+id[:8])
		all = append(all, s)
	}
	for _, s := range all {
		got := find(families, s.family, s.labels...)
		if len(got) != 1 {
			t.Errorf("%s%v: %d series, want 1", s.family, s.labels, len(got))
		} else if v := value(got[0]); v < s.min || v > s.max {
			t.Errorf("%s%v is %v, want %v to %v", s.family, s.labels, v, s.min, s.max)
		}
	}
	if info := find(families, "libvirt_domain_openstack_info"); len(info) != 1 || label(info[0], "instance_id") != id || label(info[0], "instance_name") != "cap-"+id[:8] {
		t.Errorf("instance: %v", info)
	}
	if cloned := families["capsuled_clone_duration_seconds"]; cloned != nil {
		n := 0.0
		for _, m := range cloned.GetMetric() {
			n += value(m)
		}
		if n != 3 {
			t.Errorf("%v clones were timed, want the disk and two volumes", n)
		}
	}
	h.checkLabels(t, families)
}

var plainLabel = regexp.MustCompile(`^[A-Za-z0-9 ./_:+"'{}=-]*$`)

// checkLabels looks for what a user chose, for capsules as labels of our own series, and asks Prometheus's linter.
func (h *host) checkLabels(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		for _, m := range families[name].GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), mine) || !plainLabel.MatchString(l.GetValue()) {
					t.Errorf("%s has a string that a user chose: %s=%q", name, l.GetName(), l.GetValue())
				}
				if strings.HasPrefix(name, "capsuled_") && strings.Contains(l.GetValue(), "cap-") {
					t.Errorf("%s grows with the capsules: %s=%q", name, l.GetName(), l.GetValue())
				}
			}
		}
		if families[name].GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(families))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "libvirt_") { // those names are the exporters'
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
