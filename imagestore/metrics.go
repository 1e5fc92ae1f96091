package imagestore

import "github.com/prometheus/client_golang/prometheus"

// metrics are the store's series. Labels are words of this package, never a name that somebody chose.
type metrics struct {
	cacheBytes    prometheus.Gauge
	cloneDuration *prometheus.HistogramVec
	orphans       *prometheus.GaugeVec
}

// newMetrics makes the series, and registers them unless r is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		cacheBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capsuled_image_cache_bytes",
			Help: "Disk space that the images of the store take up.",
		}),
		cloneDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "capsuled_clone_duration_seconds",
			Help:    "Time to make one clone of an image or a volume, durable on disk.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}, []string{"method"}),
		orphans: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capsuled_orphans",
			Help: "Files that no record names and that the last sweep could not remove.",
		}, []string{"kind"}),
	}
	for _, method := range []string{methodReflink, methodOverlay} {
		m.cloneDuration.WithLabelValues(method)
	}
	for _, kind := range []string{kindImage, kindClone, kindPartial} {
		m.orphans.WithLabelValues(kind)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.cacheBytes, m.cloneDuration, m.orphans} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
