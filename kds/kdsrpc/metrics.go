package kdsrpc

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-mesh/meridian/kds"
)

// metrics of one side; labels are directions and reasons, never names.
type metrics struct {
	bytes, resets, mismatches, rejections, connects *prometheus.CounterVec
	lag                                             *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "meridian",
			Subsystem: "kds",
			Name:      name,
			Help:      help,
		}, labels)
	}
	m := &metrics{
		bytes: counter("sent_bytes_total",
			"Bytes of frames sent. A jump without changes means that peers resynchronise.", "direction"),
		resets: counter("resets_total",
			"Snapshots sent, by reason. Anything but first and compacted deserves a look.", "direction",
			"reason"),
		mismatches: counter("digest_mismatches_total",
			"Kinds of which a peer had something else than was sent. Any is a bug or a changed copy.",
			"direction"),
		rejections: counter("refusals_total",
			"Resources that a receiver left out. Each is named in the status of its zone.", "direction"),
		connects: counter("streams_total",
			"Streams ended, by result. Many refused ones mean a zone that cannot join.", "direction",
			"result"),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "meridian",
			Subsystem: "kds",
			Name:      "lag_seconds",
			Help: "From the commit at the sender until the receiver had it durable. Above a second the " +
				"peer or the link is slow.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"direction", "result"}),
	}
	if reg != nil {
		reg.MustRegister(m.bytes, m.resets, m.mismatches, m.rejections, m.connects, m.lag)
	}
	return m
}

// count adds what a Source did since before.
func (m *metrics) count(d kds.Direction, now, before kds.SourceStats) {
	m.bytes.WithLabelValues(d.String()).Add(float64(now.Bytes - before.Bytes))
	m.mismatches.WithLabelValues(d.String()).Add(float64(now.Mismatches - before.Mismatches))
	for reason, n := range now.Resets {
		m.resets.WithLabelValues(d.String(), reason).Add(float64(n - before.Resets[reason]))
	}
}
