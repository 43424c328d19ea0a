package delta

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	streams    prometheus.Gauge
	waiting    prometheus.Gauge
	rejected   prometheus.Counter
	suppressed prometheus.Counter
	pushes     *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	resources  *prometheus.CounterVec
	nacks      *prometheus.CounterVec
	ack        *prometheus.HistogramVec
	commit     prometheus.Histogram
	// byType are those of a type: to look them up costs more than to count.
	byType [numTypes]typeMetrics
}

type typeMetrics struct {
	pushes, bytes, resources, nacks prometheus.Counter
	ack                             prometheus.Observer
}

func newMetrics(r prometheus.Registerer) *metrics {
	byType := []string{"type"}
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_delta_streams",
			Help: "Admitted xDS streams. Below the number of proxies that run: some cannot reach " +
				"this control " +
				"plane or are rejected.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_delta_streams_waiting",
			Help: "Admitted streams that wait for their first configuration because many came at " +
				"once. Above 0 " +
				"for long: the control plane is too slow, or clients do not answer.",
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_delta_joins_refused_total",
			Help: "Streams that were not admitted. Growth means proxies with a wrong token or " +
				"resource; the " +
				"log says why.",
		}),
		suppressed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_delta_resources_withheld_total",
			Help: "Resources that were not sent because they are larger than a message may be. Any growth " +
				"means a policy or service that is too large: see its status.",
		}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_delta_pushes_total",
			Help: "Responses sent to proxies. Growth while nothing changes means that proxies " +
				"reconnect or reject.",
		}, byType),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_delta_push_bytes_total",
			Help: "Bytes of the responses sent to proxies. Growth out of proportion to changes means large " +
				"shared resources.",
		}, byType),
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_delta_push_resources_total",
			Help: "Resources sent to proxies, removals included. Many per push at one small " +
				"change mean that " +
				"too much depends on it.",
		}, byType),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_delta_nacks_total",
			Help: "Responses that proxies rejected. Any growth means configuration that a proxy " +
				"does not take: " +
				"see the status of policies.",
		}, byType),
		ack: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meridian_delta_ack_seconds",
			Help: "Time from sending a response to its answer. High values (>1s) mean overloaded " +
				"proxies or " +
				"a slow network.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, byType),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_delta_commit_to_ack_seconds",
			Help: "Time from the commit of a change in this zone's store to a proxy's answer. High values " +
				"(>1s) mean that changes arrive late.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	if r != nil {
		r.MustRegister(m.streams, m.waiting, m.rejected, m.suppressed, m.pushes, m.bytes, m.resources,
			m.nacks,
			m.ack, m.commit)
	}
	for t := range numTypes {
		l := t.String()
		m.byType[t] = typeMetrics{
			pushes:    m.pushes.WithLabelValues(l),
			bytes:     m.bytes.WithLabelValues(l),
			resources: m.resources.WithLabelValues(l),
			nacks:     m.nacks.WithLabelValues(l),
			ack:       m.ack.WithLabelValues(l),
		}
	}
	return m
}

func (m *metrics) push(r *response) {
	t := &m.byType[r.typ]
	t.pushes.Inc()
	t.bytes.Add(float64(r.size()))
	t.resources.Add(float64(len(r.resources) + len(r.removed)))
}

func (m *metrics) answer(r *response, now time.Time) {
	m.byType[r.typ].ack.Observe(now.Sub(r.sent).Seconds())
	if !r.committed.IsZero() {
		m.commit.Observe(now.Sub(r.committed).Seconds())
	}
}
