package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Controller decides what to write; see the package comment. One goroutine calls it.
type Controller interface {
	// Plan takes what is new and returns what is to be written. It should do no I/O; one that must
	// (to have something signed by another process) ends when ctx does.
	Plan(ctx context.Context, in Input) Plan

	// Done follows every Plan, once: err is nil if the plan is durable or had nothing to write. With
	// an error nothing was written, or it is unknown whether, and Plan will be called again.
	Done(err error)
}

// Input is what a Plan is made from.
type Input struct {
	Now time.Time
	// View is the state of the store: that of the last batch for a controller that follows, else the
	// latest.
	View replica.View
	// Batch is what changed since the last one; nil if nothing did, and always without
	// [Config.Follow]. The first is a Reset.
	Batch *replica.Batch
}

// Plan is one transaction and what comes after it. The zero Plan rests until something changes.
type Plan struct {
	Checks []store.Check
	Ops    []store.Op
	// Next is when to plan again although nothing changed; zero means never.
	Next time.Time
	// Err says that some of the work could not be planned. Ops are committed all the same, and the
	// rest is retried with backoff.
	Err error
}

// Defaults of [Config].
const (
	DefaultMinRetry = 20 * time.Millisecond
	DefaultMaxRetry = 5 * time.Second
)

// catchUpTimeout bounds how long a loop waits for the replica to show a revision. It is reached
// when the replica cannot read, or when the store went back behind that revision.
const catchUpTimeout = 5 * time.Second

// Deps is what every controller is given by the role that runs it. Store and Replica are required.
type Deps struct {
	Store   store.Store
	Replica *replica.Replica
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger may be nil.
	Logger *zap.Logger
	// Registerer may be nil. Each name of a controller registers once.
	Registerer prometheus.Registerer
}

// WithDefaults fills in a clock and a logger where there is none.
func (d Deps) WithDefaults() Deps {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = zap.NewNop()
	}
	return d
}

// Config of a Loop. Deps, Name, Author and Controller are required.
type Config struct {
	Deps

	// Name is the label "controller" of metrics and log lines.
	Name string
	// Author of the transactions, such as "system:services".
	Author     string
	Controller Controller

	// Follow says that a change of the store is a reason to plan.
	Follow bool
	// Wake returns a channel that is closed or receives when there is another reason. It is called
	// before each Plan. May be nil.
	Wake func() <-chan struct{}

	// MinRetry and MaxRetry bound the delay after a failure; 0 means the default.
	MinRetry, MaxRetry time.Duration
	// Rand returns a number in [0, 1) for the jitter; nil means math/rand.
	Rand func() float64
}

// Loop runs a Controller; see the package comment.
type Loop struct {
	cfg     Config
	log     *zap.Logger
	backoff backoff.Backoff
	// notify holds a token when a caller of WaitUntilReconciled needs a Plan.
	notify chan struct{}

	reconciles *prometheus.CounterVec
	seconds    prometheus.Histogram
	retrying   prometheus.Gauge

	mu sync.Mutex
	// reconciled is the revision up to which everything is planned and written, guarded by mu;
	// changed is closed when it grows or the loop ends with err.
	reconciled uint64
	changed    chan struct{}
	ended      bool
	err        error
}

// New makes a Loop; [Loop.Run] starts it.
func New(cfg Config) *Loop {
	cfg.Deps = cfg.Deps.WithDefaults()
	if cfg.MinRetry == 0 {
		cfg.MinRetry = DefaultMinRetry
	}
	if cfg.MaxRetry == 0 {
		cfg.MaxRetry = DefaultMaxRetry
	}

	labels := prometheus.Labels{"controller": cfg.Name}
	l := &Loop{
		cfg:     cfg,
		log:     cfg.Logger.With(zap.String("controller", cfg.Name)),
		backoff: backoff.Backoff{Min: cfg.MinRetry, Max: cfg.MaxRetry, Rand: cfg.Rand},
		notify:  make(chan struct{}, 1),
		changed: make(chan struct{}),
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_controller_reconciles_total",
			Help: "Reconciliations by controller and result (written, unchanged, conflict, failed). " +
				"Conflicts or failures that keep growing mean that what the controller derives is out of " +
				"date: look at the log and the store.",
			ConstLabels: labels,
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_controller_reconcile_seconds",
			Help: "Time of a reconciliation by controller, from plan to commit. Growth means a slow store " +
				"or a plan that does too much.",
			ConstLabels: labels,
			Buckets:     prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		retrying: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_controller_retrying_bool",
			Help: "1 while the last reconciliation of the controller failed and is going to " +
				"be retried.",
			ConstLabels: labels,
		}),
	}
	obs.Register(cfg.Registerer, l.reconciles, l.seconds, l.retrying)
	return l
}

// Run reconciles until ctx ends and returns its error, or that of a store that was closed. It must
// be called once.
func (l *Loop) Run(ctx context.Context) error {
	err := l.run(ctx)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended, l.err = true, err
	close(l.changed)
	return err
}

func (l *Loop) run(ctx context.Context) error {
	select {
	case <-l.cfg.Replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	var sub *replica.Subscription
	if l.cfg.Follow {
		sub = l.cfg.Replica.Subscribe()
		defer sub.Close()
	}

	var view replica.View
	for {
		var wake <-chan struct{}
		if l.cfg.Wake != nil {
			wake = l.cfg.Wake()
		}

		in := Input{Now: l.cfg.Now()}
		if sub == nil {
			view = l.cfg.Replica.View()
		} else if batch, ok := sub.Take(); ok {
			view, in.Batch = batch.View, &batch
		}
		in.View = view

		at, err := l.reconcile(ctx, in)
		if err != nil {
			return err
		}
		if err := l.wait(ctx, sub, wake, at); err != nil {
			return err
		}
	}
}

// reconcile plans and commits once. It returns when to do so again without a signal, and an error
// only if the loop has to end.
func (l *Loop) reconcile(ctx context.Context, in Input) (time.Time, error) {
	start := l.cfg.Now()
	plan := l.cfg.Controller.Plan(ctx, in)
	result, err := l.commit(ctx, in.View.Epoch(), plan)
	l.seconds.Observe(l.cfg.Now().Sub(start).Seconds())

	if ctx.Err() != nil {
		return time.Time{}, ctx.Err()
	}
	if errors.Is(err, store.ErrClosed) {
		return time.Time{}, err
	}
	if err == nil && plan.Err != nil {
		result, err = "failed", plan.Err
	}
	l.reconciles.WithLabelValues(result).Inc()

	if err == nil {
		l.backoff.Reset()
		l.retrying.Set(0)
		l.advance(in.View.Revision())
		return plan.Next, nil
	}
	l.retrying.Set(1)
	delay := l.backoff.Next()
	if result == "conflict" {
		l.log.Debug("the state changed while it was read; retrying", zap.Error(err))
	} else {
		l.log.Warn("failed to reconcile; retrying", zap.Error(err), zap.Duration("in", delay))
	}
	return l.cfg.Now().Add(delay), nil
}

// commit writes the plan, and waits until the replica shows what it wrote or what was in its way.
func (l *Loop) commit(ctx context.Context, epoch string, plan Plan) (result string, err error) {
	if len(plan.Ops) == 0 {
		l.cfg.Controller.Done(nil)
		return "unchanged", nil
	}
	res, err := l.cfg.Store.Commit(ctx, store.Txn{
		Author: l.cfg.Author,
		Epoch:  epoch,
		Checks: plan.Checks,
		Ops:    plan.Ops,
	})
	l.cfg.Controller.Done(err)

	var conflict *store.ConflictError
	switch {
	case err == nil:
		l.catchUp(ctx, res.Revision)
		if !res.Changed {
			return "unchanged", nil
		}
		return "written", nil
	case errors.As(err, &conflict):
		l.catchUp(ctx, conflict.Revision)
		return "conflict", err
	default:
		return "failed", err
	}
}

// catchUp waits until the replica shows a revision. A replica that does not get there in time does
// not stop the loop: the checks of the next transaction guard it.
func (l *Loop) catchUp(ctx context.Context, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()

	if _, err := l.cfg.Replica.Wait(ctx, revision); errors.Is(err, context.DeadlineExceeded) {
		l.log.Warn("the replica does not show a commit", zap.Uint64("revision", revision))
	}
}

// wait returns when there is a reason to plan again, at the latest at the given time unless it is
// zero.
func (l *Loop) wait(ctx context.Context, sub *replica.Subscription, wake <-chan struct{},
	at time.Time) error {
	var timeout <-chan time.Time
	if !at.IsZero() {
		timer := time.NewTimer(at.Sub(l.cfg.Now()))
		defer timer.Stop()
		timeout = timer.C
	}
	var changed <-chan struct{}
	if sub != nil {
		changed = sub.Wake()
	}

	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-wake:
	case <-l.notify:
	case <-timeout:
	}
	return nil
}

// advance notes that everything up to revision is reconciled.
func (l *Loop) advance(revision uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision != l.reconciled {
		l.reconciled = revision
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// WaitUntilReconciled blocks until the store's state at revision was planned for, and what the
// plan wrote is durable. It returns ctx's error if that ends first, and the loop's if the loop has
// ended.
func (l *Loop) WaitUntilReconciled(ctx context.Context, revision uint64) error {
	if _, err := l.cfg.Replica.Wait(ctx, revision); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		reconciled, changed, ended, err := l.reconciled, l.changed, l.ended, l.err
		l.mu.Unlock()

		switch {
		case reconciled >= revision:
			return nil
		case ended:
			return err
		}
		select {
		case l.notify <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Retry runs do until it succeeds, with backoff and jitter while the store is unavailable. Other
// errors are returned. It is for what happens once, such as the first keys; what has to stay true
// is a [Controller].
func Retry(ctx context.Context, log *zap.Logger, what string, do func() error) error {
	delays := backoff.Backoff{Min: DefaultMinRetry, Max: DefaultMaxRetry}
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, store.ErrUnavailable):
			return fmt.Errorf("%s: %w", what, err)
		}

		delay := delays.Next()
		log.Warn("the store is unavailable; retrying", zap.String("to", what), zap.Error(err),
			zap.Duration("in", delay))
		if err := backoff.Wait(ctx, delay); err != nil {
			return err
		}
	}
}
