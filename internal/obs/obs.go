// Package obs makes a process observable: its logger, and the diagnostics handler of port 5680.
//
// # Logging
//
// [NewLogger] gives a zap logger, JSON (one object a line, for machines) or console (for people),
// to standard error. Its level is an AtomicLevel that PUT /logging changes while the process runs.
//
// # Diagnostics
//
// [Diagnostics] serves, without authentication and hence on a port of its own:
//
//	/healthy       200 while the process runs
//	/ready         200, or 503 with the reason as text
//	/metrics       Prometheus
//	/logging       GET {"level":"info"}; PUT {"level":"debug"} or level=debug
//	/debug/pprof/  profiles
//
// # Failure
//
// A collector that fails spoils its own metrics only. A panic in a handler becomes a 500.
package obs

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger makes a logger that writes to standard error. format is "json" or "console" (or empty:
// console), level one of debug, info, warn, error (or empty: info).
func NewLogger(format, level string) (*zap.Logger, zap.AtomicLevel, error) {
	at := zap.NewAtomicLevel()
	if level != "" {
		l, err := zapcore.ParseLevel(level)
		if err != nil || l > zapcore.ErrorLevel {
			return nil, at, fmt.Errorf("log level %q: must be debug, info, warn or error", level)
		}
		at.SetLevel(l)
	}
	conf := zap.NewProductionConfig()
	conf.Level = at
	conf.Sampling = nil // a line that was not written cannot be found
	conf.EncoderConfig.TimeKey = "time"
	conf.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	conf.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	conf.DisableStacktrace = true
	switch format {
	case "json":
	case "", "console":
		conf.Encoding = "console"
		conf.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z0700")
		conf.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
		conf.DisableCaller = true
	default:
		return nil, at, fmt.Errorf("log format %q: must be json or console", format)
	}
	logger, err := conf.Build()
	if err != nil {
		return nil, at, fmt.Errorf("make logger: %w", err)
	}
	return logger, at, nil
}

// NewRegistry is a registry with the figures of the process and of Go in it.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Register adds collectors to reg, and does nothing if reg is nil: a part that is not observed
// works the same. It panics if a name is taken, which is a bug of the caller.
func Register(reg prometheus.Registerer, collectors ...prometheus.Collector) {
	if reg != nil {
		reg.MustRegister(collectors...)
	}
}

const formType = "application/x-www-form-urlencoded"

// startsObject says whether the body is a JSON object rather than a form, and leaves it unread.
func startsObject(r *http.Request) bool {
	body := bufio.NewReader(r.Body)
	r.Body = struct {
		io.Reader
		io.Closer
	}{body, r.Body}
	first, err := body.Peek(1)
	return err == nil && first[0] == '{'
}

// Diagnostics is the handler of the diagnostics port. ready returns why the process is not ready,
// or nil; a nil ready is always ready.
func Diagnostics(reg prometheus.Gatherer, level zap.AtomicLevel, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthy",
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if ready == nil {
			return
		}
		if err := ready(); err != nil {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, strings.TrimSpace(err.Error()))
		}
	})
	if reg != nil {
		mux.Handle("GET /metrics",
			promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	}
	mux.HandleFunc("/logging", func(w http.ResponseWriter, r *http.Request) {
		// curl -d says that everything is a form, and the level's handler believes it.
		if r.Header.Get("Content-Type") == formType && startsObject(r) {
			r.Header.Set("Content-Type", "application/json")
		}
		level.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
