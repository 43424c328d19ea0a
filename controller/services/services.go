package services

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Defaults of [Config].
const (
	// DefaultDeletionGrace is how long a generated service without Dataplanes stays.
	DefaultDeletionGrace = time.Hour
	// DefaultQuarantine is how long the address of a destination that went is kept for it.
	DefaultQuarantine = time.Hour
)

// Ranges of virtual IPs (core-resources 15).
var (
	servicePrefix   = netip.MustParsePrefix("241.0.0.0/8")
	multiZonePrefix = netip.MustParsePrefix("243.0.0.0/8")
)

// Config of a Reconciler. Zone, Store and Replica are required.
type Config struct {
	Zone    string
	Store   store.Store
	Replica *replica.Replica

	// DeletionGrace, Quarantine: see the defaults.
	DeletionGrace time.Duration
	Quarantine    time.Duration
	// ServicePrefix and MultiZonePrefix are the ranges of virtual IPs; defaults 241.0.0.0/8 and 243.0.0.0/8.
	ServicePrefix, MultiZonePrefix netip.Prefix
	// Now is the clock, default time.Now.
	Now func() time.Time

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Reconciler derives services, addresses and hostnames; see the package comment.
type Reconciler struct {
	cfg   Config
	log   *zap.Logger
	state *state

	rounds *prometheus.CounterVec
	short  prometheus.Gauge
}

// New makes a Reconciler; [Reconciler.Run] starts it.
func New(cfg Config) *Reconciler {
	if cfg.DeletionGrace == 0 {
		cfg.DeletionGrace = DefaultDeletionGrace
	}
	if cfg.Quarantine == 0 {
		cfg.Quarantine = DefaultQuarantine
	}
	if !cfg.ServicePrefix.IsValid() {
		cfg.ServicePrefix = servicePrefix
	}
	if !cfg.MultiZonePrefix.IsValid() {
		cfg.MultiZonePrefix = multiZonePrefix
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	r := &Reconciler{cfg: cfg, log: cfg.Logger}
	r.state = newState(&r.cfg, r.log)
	r.rounds = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meridian_services_rounds_total",
		Help: "Rounds of service generation by result (written, unchanged, conflict, failed). Conflicts or " +
			"failures that keep " +
			"growing mean that services and addresses are not kept up to date: look at the store.",
	}, []string{"result"})
	r.short = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meridian_services_without_address",
		Help: "Destinations for which no virtual IP was left. Above 0: enlarge the range.",
	})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(r.rounds, r.short)
	}
	return r
}

// Bounds of the retry delay after a failed transaction.
const (
	minRetry = 20 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Run reconciles until ctx ends and returns its error, or that of a store that was closed.
func (r *Reconciler) Run(ctx context.Context) error {
	sub := r.cfg.Replica.Subscribe()
	defer sub.Close()
	var retry time.Duration
	var wakeAt time.Time
	for {
		if err := r.next(ctx, sub, wakeAt); err != nil {
			return err
		}
		round := r.state.round(r.cfg.Now())
		wakeAt = round.deadline
		result, err := r.commit(ctx, round)
		r.rounds.WithLabelValues(result).Inc()
		r.short.Set(float64(r.state.short))
		switch {
		case err == nil:
			retry = 0
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrClosed):
			return err
		default:
			retry = min(max(retry*2, minRetry), maxRetry)
			if result == "failed" {
				r.log.Warn("services were not written, will try again", zap.Error(err),
					zap.Duration("in", retry))
			}
			wakeAt = earlier(wakeAt, r.cfg.Now().Add(retry))
		}
	}
}

// next takes the next batch into the state, or returns without one at wakeAt.
func (r *Reconciler) next(ctx context.Context, sub *replica.Subscription, wakeAt time.Time) error {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if !wakeAt.IsZero() {
		wait, cancel = context.WithTimeout(ctx, wakeAt.Sub(r.cfg.Now()))
	}
	defer cancel()
	batch, err := sub.Next(wait)
	switch {
	case err == nil:
		r.state.apply(batch)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil
	default:
		return err
	}
}

func (r *Reconciler) commit(ctx context.Context, round round) (string, error) {
	if len(round.ops) == 0 {
		r.state.done()
		return "unchanged", nil
	}
	res, err := r.cfg.Store.Commit(ctx, store.Txn{
		Actor:  "system:services",
		Checks: round.checks,
		Ops:    round.ops,
	})
	if err != nil {
		if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
			return "conflict", err
		}
		return "failed", err
	}
	r.state.done()
	if _, err := r.cfg.Replica.Wait(ctx, res.Revision); err != nil {
		return "failed", err
	}
	return "written", nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// round is one transaction and when to look again without a change; zero means never.
type round struct {
	checks   []store.Check
	ops      []store.Op
	deadline time.Time
}

func isOwn(zone string, r *mesh.Resource) bool { return r.Key.Zone == zone }
