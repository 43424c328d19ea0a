package services

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/store/reconcile"
)

// Defaults of [Config].
const (
	// DefaultDeletionGrace is how long a generated service without Dataplanes stays.
	DefaultDeletionGrace = time.Hour
	// DefaultQuarantine is how long the address of a destination that went is kept for it.
	DefaultQuarantine = time.Hour
)

// Config of a Reconciler. Zone, Store and Replica are required.
type Config struct {
	reconcile.Deps
	Zone string

	// DeletionGrace, Quarantine: see the defaults.
	DeletionGrace time.Duration
	Quarantine    time.Duration
	// Prefixes are the ranges of virtual IPs by kind of destination. A kind that is not there has the
	// range of its row in mesh/destination.
	Prefixes map[mesh.Kind]netip.Prefix
}

// Reconciler derives services, addresses and hostnames; see the package comment.
type Reconciler struct {
	*reconcile.Loop

	cfg Config
}

// controller is the Reconciler's state on its loop.
type controller struct {
	*state
	short prometheus.Gauge
}

// New makes a Reconciler; its Run starts it.
func New(cfg Config) *Reconciler {
	if cfg.DeletionGrace == 0 {
		cfg.DeletionGrace = DefaultDeletionGrace
	}
	if cfg.Quarantine == 0 {
		cfg.Quarantine = DefaultQuarantine
	}
	prefixes := map[mesh.Kind]netip.Prefix{}
	for _, info := range destination.Kinds {
		prefixes[info.Kind] = info.Prefix
	}
	maps.Copy(prefixes, cfg.Prefixes)
	cfg.Prefixes = prefixes

	cfg.Deps = cfg.Deps.WithDefaults()
	r := &Reconciler{cfg: cfg}
	short := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meridian_services_without_address",
		Help: "Destinations for which no virtual IP was left. Above 0: enlarge the range.",
	})
	obs.Register(cfg.Registerer, short)
	r.Loop = reconcile.New(reconcile.Config{
		Deps:       cfg.Deps,
		Name:       "services",
		Author:     "system:services",
		Controller: controller{state: newState(&r.cfg, cfg.Logger), short: short},
		Follow:     true,
	})
	return r
}

// Plan implements [reconcile.Controller].
func (c controller) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	if in.Batch != nil {
		c.apply(*in.Batch)
	}
	plan := c.compute(in.Now)
	c.short.Set(float64(c.state.short))
	return plan
}

// Done implements [reconcile.Controller].
func (c controller) Done(err error) {
	if err == nil {
		c.done()
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// isLocal says that the proxies behind a destination are the zone's own.
func isLocal(k mesh.Key, zone string) bool {
	info, ok := destination.Lookup(k.Kind)
	return ok && info.Local(k, zone)
}
