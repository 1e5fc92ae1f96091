package firewall

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the package's series; none has a label that grows with the capsules.
type metrics struct {
	seconds     *prometheus.HistogramVec
	bindings    *prometheus.GaugeVec
	differences prometheus.Gauge
	failures    prometheus.Counter
	cut         prometheus.Counter
	legacy      prometheus.Gauge
	questions   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capsuled_firewall_call_duration_seconds", Help: "Time of calls that read or change the rules.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 10),
		}, []string{"call"}),
		bindings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capsuled_firewall_bindings", Help: "Bindings that should be in force, by policy.",
		}, []string{"policy"}),
		differences: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capsuled_firewall_differences", Help: "Differences between the kernel and what should be, when last verified.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "capsuled_firewall_failures_total", Help: "Changes of the rules that the host refused.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "capsuled_firewall_connections_cut_total", Help: "Connection tracking entries deleted because a binding changed.",
		}),
		legacy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capsuled_firewall_legacy_tables", Help: "Tables of iptables-legacy beside nf_tables, when last verified.",
		}),
		questions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capsuled_firewall_questions_total", Help: "Questions for names that the static resolver got, by what became of them.",
		}, []string{"result"}),
	}
	for _, result := range []string{"answered", "no_data", "unknown", "refused", "malformed", "limited", "stranger"} {
		m.questions.WithLabelValues(result)
	}
	if r == nil {
		return m, nil
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.seconds, m.bindings, m.differences, m.failures, m.cut, m.legacy, m.questions} {
		faults = append(faults, r.Register(c))
	}
	return m, errors.Join(faults...)
}

// time starts a clock; the function it returns stops it.
func (m *metrics) time(call string) func() {
	start := time.Now()
	return func() { m.seconds.WithLabelValues(call).Observe(time.Since(start).Seconds()) }
}

// count shows how many bindings each policy has.
func (m *metrics) count(want wanted) {
	n := map[string]float64{Closed: 0}
	for p := range want.policies {
		n[p] = 0
	}
	for _, b := range want.bindings {
		n[b.Policy]++
	}
	m.bindings.Reset() // policies may be gone
	for p, count := range n {
		if p == Closed {
			p = "closed"
		}
		m.bindings.WithLabelValues(p).Set(count)
	}
}
