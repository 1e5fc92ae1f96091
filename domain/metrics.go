package domain

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is everything that this package tells Prometheus. A scrape reads what the last collection left; it
// never calls libvirt.
type metrics struct {
	connected  prometheus.Gauge
	reconnects prometheus.Counter
	calls      *prometheus.HistogramVec

	mu    sync.Mutex // guards what follows
	last  []prometheus.Metric
	facts map[ID]facts
	quiet map[ID]bool // see Quiet
	age   int         // counts what was forgotten: a read that began before does not count
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capsuled_libvirt_connected", Help: "Whether the connection to libvirt stands (1) or not (0).",
		}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "capsuled_libvirt_reconnects_total", Help: "Connections to libvirt that were made again after a loss.",
		}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capsuled_libvirt_call_duration_seconds", Help: "How long calls into libvirt took, by kind of call.",
			Buckets: []float64{0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30},
		}, []string{"call"}),
		facts: map[ID]facts{}, quiet: map[ID]bool{},
	}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.collectors() {
		if err := reg.Register(c); err != nil {
			for _, done := range m.collectors()[:i] {
				reg.Unregister(done)
			}
			return nil, errors.Join(err)
		}
	}
	return m, nil
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.connected, m.reconnects, m.calls, m}
}

// unregister takes everything out again, so that a Host that is gone leaves no series.
func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.collectors() {
		reg.Unregister(c)
	}
}

func (m *metrics) setConnected(yes, again bool) {
	if !yes {
		m.connected.Set(0)
		return
	}
	m.connected.Set(1)
	if again {
		m.reconnects.Inc()
	}
}

func (m *metrics) observeCall(name string, since time.Time) {
	m.calls.WithLabelValues(name).Observe(time.Since(since).Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs() {
		ch <- d
	}
}

// Collect implements prometheus.Collector: it hands out what the last collection left.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	last := m.last
	m.mu.Unlock()
	for _, s := range last {
		ch <- s
	}
}

// publish replaces all series: those of a domain that is gone go with it.
func (m *metrics) publish(series []prometheus.Metric) {
	m.mu.Lock()
	m.last = series
	m.mu.Unlock()
}

// forget drops what is known of a domain's description; "" drops all.
func (m *metrics) forget(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.age++
	if id == "" {
		clear(m.facts)
	}
	delete(m.facts, id)
}

// known gives the facts of a domain, if they are fresh, and the age to remember new ones with.
func (m *metrics) known(id ID) (facts, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.facts[id]
	return f, m.age, ok
}

// remember keeps facts that were read at that age.
func (m *metrics) remember(id ID, f facts, age int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.age == age {
		m.facts[id] = f
	}
}
