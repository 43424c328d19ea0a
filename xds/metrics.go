package xds

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-mesh/meridian/xds/graph"
)

// metrics are updated by Run's goroutine after each batch.
type metrics struct {
	e        *Engine
	computes *prometheus.CounterVec
	failures *prometheus.CounterVec
	nodes    *prometheus.GaugeVec
	seconds  prometheus.Histogram
	changes  prometheus.Counter
	// propagation is observed under Engine.mu.
	propagation prometheus.Histogram
	// seen is the last state by query.
	seen map[string]graph.Stats
}

func newMetrics(e *Engine, reg prometheus.Registerer) *metrics {
	m := &metrics{
		e:    e,
		seen: map[string]graph.Stats{},
		computes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_xds_compute_total",
			Help: "Values computed, by query. A rate that grows with the number of proxies " +
				"rather than with " +
				"the changes means that something is not shared.",
		}, []string{"query"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_xds_compute_failures_total",
			Help: "Values that could not be computed, by query; proxies keep the last good one. " +
				"Any increase " +
				"is a bug or a broken resource: see the log.",
		}, []string{"query"}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "meridian_xds_nodes",
			Help: "Values remembered, by query. Growth without growth of the mesh is a leak.",
		}, []string{"query"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_xds_batch_seconds",
			Help: "Time to take a batch of changes in, from the replica to the watches. High values (>0.1) " +
				"delay every proxy.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_xds_changes_total",
			Help: "Changes of resources taken in. Far more than people and proxies make means " +
				"that a client " +
				"writes in a loop.",
		}),
		propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_propagation_seconds",
			Help: "Time from a commit in this zone's store to the answer of the last proxy that it " +
				"concerns. Seconds mean slow proxies or an overloaded control plane.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
	}
	if reg != nil {
		for _, c := range []prometheus.Collector{m.computes, m.failures, m.nodes, m.seconds, m.changes,
			m.propagation} {
			var dup prometheus.AlreadyRegisteredError
			if err := reg.Register(c); err != nil && !errors.As(err, &dup) {
				e.log.Sugar().Warnf("cannot register a metric: %v", err)
			}
		}
	}
	return m
}

func (m *metrics) batch(start time.Time, changes int) {
	if m == nil {
		return
	}
	m.seconds.Observe(time.Since(start).Seconds())
	m.changes.Add(float64(changes))
	m.flush()
}

func (m *metrics) flush() {
	if m == nil {
		return
	}
	for s := range m.e.g.Stats() {
		last := m.seen[s.Name]
		if s.Computes != last.Computes {
			m.computes.WithLabelValues(s.Name).Add(float64(s.Computes - last.Computes))
			m.nodes.WithLabelValues(s.Name).Set(float64(s.Values))
		}
		if s.Failures != last.Failures {
			m.failures.WithLabelValues(s.Name).Add(float64(s.Failures - last.Failures))
		}
		m.seen[s.Name] = s
	}
}
