package daemon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/daemon/store"
)

type metrics struct {
	duration    *prometheus.HistogramVec
	ended       *prometheus.CounterVec
	unexplained *prometheus.GaugeVec
	reconciled  prometheus.Gauge
	switched    *prometheus.HistogramVec
	unswitched  *prometheus.CounterVec
	drift       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, d *Daemon) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capsuled_operation_duration_seconds", Help: "How long operations took, from their first step to the recorded outcome.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 15),
		}, []string{"kind"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capsuled_operations_ended_total", Help: "Operations that ended, by kind and the class of their error (\"\" for none).",
		}, []string{"kind", "code"}),
		unexplained: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capsuled_unexplained", Help: "Directories and domains of ours that no record ever named; they are left alone.",
		}, []string{"kind"}),
		reconciled: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capsuled_reconcile_last_success_timestamp_seconds", Help: "When the last full pass over records, libvirt, firewall and files succeeded.",
		}),
	}
	m.switched = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "capsule_mode_switch_duration_seconds", Help: "How long switches between the modes took.",
		Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
	}, []string{"from", "to"})
	m.unswitched = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capsule_mode_switch_failures_total", Help: "Switches between the modes that failed, by the step.",
	}, []string{"from", "to", "step"})
	m.drift = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capsule_policy_drift_total", Help: "How often the kernel was found to differ from what should be, by what differed.",
	}, []string{"cause"})
	m.drift.WithLabelValues("rules") // the first drift is a change, and not a series that begins with it
	reg.MustRegister(m.duration, m.ended, m.unexplained, m.reconciled, m.switched, m.unswitched, m.drift, records{d})
	return m
}

func (m *metrics) operation(kind, step string, cause *Error, took time.Duration) {
	code := ""
	if cause != nil {
		code = string(cause.Code)
	}
	way := map[string][2]string{opEnter: {"maintenance", "secure"}, opLeave: {"secure", "maintenance"}}[kind]
	switch {
	case way[0] == "":
	case cause == nil:
		m.switched.WithLabelValues(way[:]...).Observe(took.Seconds())
	default:
		m.unswitched.WithLabelValues(way[0], way[1], step).Inc()
	}
	m.duration.WithLabelValues(kind).Observe(took.Seconds())
	m.ended.WithLabelValues(kind, code).Inc()
}

// records collects what the records say, when it is asked: one read of the store, no call to libvirt.
type records struct{ d *Daemon }

var (
	operationsDesc = prometheus.NewDesc("capsuled_operations", "Operations under way.", []string{"state", "kind"}, nil)
	capsulesDesc   = prometheus.NewDesc("capsuled_capsules", "Capsules by state.", []string{"state"}, nil)
	imagesDesc     = prometheus.NewDesc("capsuled_images", "Images by state.", []string{"state"}, nil)
	modeDesc       = prometheus.NewDesc("capsule_mode", "1 for the mode that a running capsule is in, by its record.", []string{"domain", "mode"}, nil)
	verifiedDesc   = prometheus.NewDesc("capsule_policy_verified", "Whether a capsule in secure mode was proved safe when it was last looked at.", []string{"domain"}, nil)
	verifiedAtDesc = prometheus.NewDesc("capsule_policy_last_verified_timestamp_seconds", "When a capsule in secure mode was last proved safe.", []string{"domain"}, nil)
	deniedDesc     = prometheus.NewDesc("capsule_denied_packets_total", "Packets from and to a capsule in secure mode that were dropped, since its rules were last written.", []string{"domain", "family"}, nil)
	readyDesc      = prometheus.NewDesc("capsuled_ready", "Whether the daemon has converged and takes requests.", nil, nil)
)

func (r records) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{operationsDesc, capsulesDesc, imagesDesc, modeDesc, readyDesc, verifiedDesc, verifiedAtDesc, deniedDesc} {
		ch <- d
	}
}

func (r records) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ready := 0.0
	if r.d.Ready().Ready {
		ready = 1
	}
	gauge(readyDesc, ready)
	r.verified(ch)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	capsules, images, operations := map[State]int{}, map[ImageState]int{}, map[string]int{}
	err := r.d.store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Capsules()
		if err != nil {
			return err
		}
		for _, c := range all {
			capsules[c.State]++
			if c.Mode == NotDefined {
				continue
			}
			for _, m := range []Mode{Maintenance, Secure} {
				v := 0.0
				if c.Mode == m {
					v = 1
				}
				gauge(modeDesc, v, c.Key, modeLabel[m])
			}
		}
		stored, err := tx.Images()
		if err != nil {
			return err
		}
		for _, i := range stored {
			images[i.State]++
		}
		open, err := tx.OpenOperations()
		for _, o := range open {
			operations[o.Kind]++
		}
		return err
	})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(capsulesDesc, err)
		return
	}
	for s, n := range capsules {
		gauge(capsulesDesc, float64(n), string(s))
	}
	for s, n := range images {
		gauge(imagesDesc, float64(n), string(s))
	}
	for kind := range r.d.procedures {
		gauge(operationsDesc, float64(operations[kind]), string(OperationRunning), kind)
	}
}

// verified says what the verifier found.
func (r records) verified(ch chan<- prometheus.Metric) {
	v := &r.d.verdicts
	v.mu.Lock()
	defer v.mu.Unlock()
	for domain, k := range v.of {
		proved := 0.0
		if k.proved {
			proved = 1
		}
		ch <- prometheus.MustNewConstMetric(verifiedDesc, prometheus.GaugeValue, proved, domain)
		ch <- prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(k.denied.bridge), domain, "bridge")
		ch <- prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(k.denied.ipv4), domain, "ipv4")
		if !k.at.IsZero() {
			ch <- prometheus.MustNewConstMetric(verifiedAtDesc, prometheus.GaugeValue, float64(k.at.UnixMilli())/1000, domain)
		}
	}
}

var modeLabel = map[Mode]string{Maintenance: "maintenance", Secure: "secure"}
