package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

const (
	minRetry = 100 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Config of a Replica.
type Config struct {
	// Store to follow. Required.
	Store store.Store
	// Logger may be nil.
	Logger *zap.Logger
	// Registerer may be nil. One replica per registerer.
	Registerer prometheus.Registerer
}

// Replica is an in-memory copy of a store; see the package comment. New starts nothing: call Run.
type Replica struct {
	store   store.Store
	log     *zap.Logger
	metrics metrics
	ready   chan struct{}
	state   atomic.Pointer[state]
	reset   atomic.Pointer[chan struct{}]

	mu   sync.Mutex // guards what follows, and the order of state and subscriptions
	subs map[*Subscription]struct{}
}

// state is a view and what announces its successor.
type state struct {
	view View
	// next is closed when this state is replaced.
	next chan struct{}
}

type metrics struct {
	revision, resources prometheus.Gauge
	snapshots, failures prometheus.Counter
	delay               prometheus.Histogram
}

// New makes a replica that is empty until Run has loaded the first snapshot.
func New(c Config) *Replica {
	r := &Replica{
		store: c.Store,
		log:   c.Logger,
		ready: make(chan struct{}),
		subs:  map[*Subscription]struct{}{},
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	r.metrics = metrics{
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_replica_revision_number",
			Help: "Store revision that the in-memory copy shows. If it stands still while the " +
				"store moves on, " +
				"this process serves old state.",
		}),
		resources: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_replica_resources_count",
			Help: "Resources in the in-memory copy. A sudden fall means that many were deleted."}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_replica_snapshots_total",
			Help: "Snapshots taken. More than one per start means that the log is compacted " +
				"faster than this " +
				"process reads it.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_replica_unavailable_total",
			Help: "Times that the store could not be read. While it grows, this process serves its last " +
				"known state.",
		}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_replica_delay_seconds",
			Help: "Age of commits when they reach the in-memory copy. Seconds mean overload, or " +
				"that clocks " +
				"of replicas differ.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
	obs.Register(c.Registerer, r.metrics.revision, r.metrics.resources, r.metrics.snapshots,
		r.metrics.failures, r.metrics.delay)
	r.state.Store(&state{next: make(chan struct{})})
	reset := make(chan struct{})
	r.reset.Store(&reset)
	return r
}

// Run follows the store until ctx ends (it returns ctx's error), the store is closed
// ([store.ErrClosed]) or cannot be read for a reason that waiting does not cure. It must be called
// once.
func (r *Replica) Run(ctx context.Context) error {
	delays := &backoff.Backoff{Min: minRetry, Max: maxRetry}
	for {
		err := r.follow(ctx, delays)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrReset):
			r.log.Info("the store went back; taking a new snapshot",
				zap.Uint64("revision", r.View().Revision()))
		case errors.Is(err, store.ErrCompacted):
			r.log.Info("the log was compacted past our place; taking a new snapshot",
				zap.Uint64("revision", r.View().Revision()))
		case errors.Is(err, store.ErrUnavailable):
			if err := r.wait(ctx, delays, err); err != nil {
				return err
			}
		default:
			return fmt.Errorf("follow the store: %w", err)
		}
	}
}

// wait pauses after the store was unavailable.
func (r *Replica) wait(ctx context.Context, delays *backoff.Backoff, cause error) error {
	r.metrics.failures.Inc()
	delay := delays.Next()
	r.log.Warn("the store is unavailable; serving the last known state", zap.Error(cause),
		zap.Duration("retry", delay))
	return backoff.Wait(ctx, delay)
}

// follow takes a snapshot if there is none or ours is too old, and then every commit.
func (r *Replica) follow(ctx context.Context, delays *backoff.Backoff) error {
	snapshot, err := r.store.Snapshot(ctx)
	if err != nil {
		return err
	}
	r.metrics.snapshots.Inc()
	r.load(snapshot)
	watch, err := r.store.Watch(ctx, snapshot.Revision)
	if err != nil {
		var invalid *store.InvalidError
		if errors.As(err, &invalid) {
			// The store went back between the two calls.
			return fmt.Errorf("%w: %w", store.ErrCompacted, err)
		}
		return err
	}
	defer watch.Close()
	if r.store.Epoch() != snapshot.Epoch {
		return store.ErrReset // between the two calls
	}
	for {
		commit, err := watch.Next(ctx)
		switch {
		case err == nil:
			delays.Reset()
			r.apply(commit)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrReset):
			return err
		case errors.Is(err, store.ErrUnavailable):
			if err := r.wait(ctx, delays, err); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// load replaces the state by a snapshot and turns the difference into changes.
func (r *Replica) load(snapshot store.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.View()
	next := NewView(snapshot.Revision, snapshot.Resources...).In(snapshot.Epoch)
	if isClosed(r.ready) && (next.Epoch() != old.Epoch() || next.Revision() < old.Revision()) {
		r.log.Warn("the store went back, as after a restored backup; readers start over",
			zap.Uint64("from", old.Revision()), zap.Uint64("to", next.Revision()))
		r.publish(next)
		for s := range r.subs {
			s.reset()
		}
		again := make(chan struct{})
		close(*r.reset.Swap(&again))
		return
	}
	now := time.Now()
	changes := difference(old, next)
	r.publish(next)
	if isClosed(r.ready) {
		r.announce(store.Commit{Revision: snapshot.Revision, Time: now, Changes: changes})
		return
	}
	close(r.ready)
	for s := range r.subs {
		s.signal()
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// difference between two views of one store: the same revisions mean the same content.
func difference(old, next View) []store.Change {
	var changes []store.Change
	for n := range next.All() {
		o, ok := old.Get(n.Key)
		switch {
		case !ok:
			changes = append(changes, store.Change{Type: store.ChangeSpec, Key: n.Key, Resource: n})
		case o.Revision != n.Revision:
			changes = append(changes, store.Change{
				Type:     store.ChangeSpec,
				Key:      n.Key,
				Resource: n,
				Old:      o,
			})
		case o.StatusRevision != n.StatusRevision:
			changes = append(changes, store.Change{
				Type:     store.ChangeStatus,
				Key:      n.Key,
				Resource: n,
				Old:      o,
			})
		}
	}
	for o := range old.All() {
		if _, ok := next.Get(o.Key); !ok {
			changes = append(changes, store.Change{Type: store.ChangeDelete, Key: o.Key, Old: o})
		}
	}
	return changes
}

func (r *Replica) apply(commit store.Commit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.metrics.delay.Observe(max(0, time.Since(commit.Time).Seconds()))
	r.publish(r.View().With(commit.Revision, commit.Changes))
	r.announce(commit)
}

// publish makes view the latest. It is called with mu held.
func (r *Replica) publish(view View) {
	r.metrics.revision.Set(float64(view.Revision()))
	r.metrics.resources.Set(float64(view.Len()))
	old := r.state.Swap(&state{view: view, next: make(chan struct{})})
	close(old.next)
}

// announce adds a commit to every subscription. It is called with mu held.
func (r *Replica) announce(commit store.Commit) {
	for s := range r.subs {
		s.add(commit)
	}
}

// Ready is closed once the first snapshot is loaded.
func (r *Replica) Ready() <-chan struct{} { return r.ready }

// View is the latest state.
func (r *Replica) View() View { return r.state.Load().view }

// Reset is closed when the store goes back and the view starts over; take it before the view.
func (r *Replica) Reset() <-chan struct{} { return *r.reset.Load() }

// Wait blocks until the first snapshot is loaded and the view is of the store's present epoch and at
// least at revision. It fails only with ctx's error.
func (r *Replica) Wait(ctx context.Context, revision uint64) (View, error) {
	select {
	case <-r.ready:
	case <-ctx.Done():
		return View{}, ctx.Err()
	}
	for {
		s := r.state.Load()
		if s.view.Revision() >= revision && s.view.Epoch() == r.store.Epoch() {
			return s.view, nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return s.view, ctx.Err()
		}
	}
}

// Subscribe starts a subscription. Close it.
func (r *Replica) Subscribe() *Subscription {
	s := &Subscription{
		replica: r,
		first:   true,
		pending: map[mesh.Key]*mesh.Resource{},
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[s] = struct{}{}
	return s
}
