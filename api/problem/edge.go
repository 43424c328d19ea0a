package problem

import (
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/obs"
)

// Results in the metric of durations.
const (
	resultOK       = "ok"
	resultRejected = "refused" // the caller's fault; the label's value is part of the metric's interface
	resultFailed   = "failed"
)

// Edge is the outermost part of every request; see the package comment.
type Edge struct {
	log      *zap.Logger
	duration *prometheus.HistogramVec
	panics   prometheus.Counter
}

// NewEdge makes an Edge; a nil registerer leaves it without metrics.
func NewEdge(log *zap.Logger, registerer prometheus.Registerer) *Edge {
	e := &Edge{
		log: log,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meridian_api_request_duration_seconds",
			Help: "Time to answer a request of the management API, watches and waits left out. High write " +
				"times mean a slow store.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"verb", "result"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_api_panics_total",
			Help: "Requests that ended in a bug of the control plane. Anything but 0 is worth a report " +
				"with the log line.",
		}),
	}
	obs.Register(registerer, e.duration, e.panics)
	return e
}

// Recover turns a panic into a Problem in *err; use it as defer e.Recover(&err, what).
func (e *Edge) Recover(err *error, what string) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // it is compared so in net/http
		panic(p)
	}
	e.panics.Inc()
	e.log.Error("panic in a request",
		zap.String("request", what),
		zap.Any("panic", p),
		zap.ByteString("stack", debug.Stack()))
	*err = New(http.StatusInternalServerError, "Internal Server Error",
		"this is a bug; the control plane's log has a line about it")
}

// Problem classes err and logs what its caller does not see.
func (e *Edge) Problem(err error, title string) *Problem {
	p, known := Classify(err, title)
	switch {
	case !known:
		e.log.Error("request failed", zap.String("operation", title), zap.Error(err))
	case p.Status == http.StatusServiceUnavailable && p.Cause == nil && err != error(p):
		e.log.Warn("store unavailable", zap.Error(err))
	}
	return p
}

// Observe counts an answer; an empty verb is one whose time says nothing, such as a watch's.
func (e *Edge) Observe(verb string, status int, start time.Time) {
	switch verb {
	case "":
		return
	case "GET", "PUT", "POST", "DELETE", "grpc":
	default:
		verb = "other"
	}
	result := resultOK
	switch {
	case status >= 500:
		result = resultFailed
	case status >= 400:
		result = resultRejected
	}
	e.duration.WithLabelValues(verb, result).Observe(time.Since(start).Seconds())
}
