package xds

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Config of an Engine.
type Config struct {
	// Zone is this control plane's zone: whose Dataplanes it serves.
	Zone    string
	Replica *replica.Replica
	// TestHooks lets a MeshHTTPRoute labelled [LabelTestHook] = [HookRejected] become something
	// that Envoy rejects: no policy that can be stored does, and what happens then has to be shown
	// and tested.
	TestHooks bool
	// Logger and Registerer may be nil.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// The label of test hooks and its value; see [Config.TestHooks].
const (
	LabelTestHook = "meridian.io/test-hook"
	HookRejected  = "envoy-rejects"
)

// Engine derives proxies' tables; see the package comment. Its methods are safe for concurrent use.
type Engine struct {
	zone    string
	replica *replica.Replica
	log     *zap.Logger
	metrics *metrics
	ready   chan struct{}
	wake    chan struct{} // one token: events is not empty

	// The graph belongs to Run's goroutine.
	g       *graph.Graph
	s       *state
	q       *queries
	proxies map[caller]*proxy
	// dirty are proxies whose table changed in this batch, joining watches that wait for their first table.
	dirty   []*proxy
	joining map[*watch]struct{}
	// notified are watches that this batch gave something.
	notified []*watch
	// resolving are watches whose names were taken in with this batch.
	resolving []*watch
	// computeFailures are of values that cannot be computed at the moment; nil if there are none.
	computeFailures map[*graph.Node]*computeFailure
	good            lastGood

	mu sync.Mutex
	// Guarded by mu.
	events      []func()
	ended       bool
	processed   uint64
	watches     map[*watch]struct{}
	outstanding map[*watch]struct{}
	rejecting   map[*watch]struct{}
	failures    []rejection
	view        replica.View // the one of processed
	tables      map[caller]*delta.Table
	changes     []*rollup     // the last ones, ascending
	progress    chan struct{} // closed at the next change of Progress
	// progressRead says that progress was handed out.
	progressRead bool
}

// proxy is a followed proxy: its table is pinned in the graph. Run's goroutine owns it.
type proxy struct {
	key     caller
	table   *graph.Cell[*delta.Table]
	watches map[*watch]struct{}
	dirty   bool
}

// New makes an engine; [Engine.Run] runs it.
func New(c Config) *Engine {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	e := newEngine(c.Zone)
	e.replica, e.log, e.q.hooks = c.Replica, c.Logger, c.TestHooks
	e.metrics = newMetrics(e, c.Registerer)
	return e
}

func newEngine(zone string) *Engine {
	e := &Engine{
		zone:        zone,
		log:         zap.NewNop(),
		g:           graph.New(),
		ready:       make(chan struct{}),
		wake:        make(chan struct{}, 1),
		proxies:     map[caller]*proxy{},
		watches:     map[*watch]struct{}{},
		outstanding: map[*watch]struct{}{},
		rejecting:   map[*watch]struct{}{},
		joining:     map[*watch]struct{}{},
		tables:      map[caller]*delta.Table{},
		progress:    make(chan struct{}),
	}
	e.s = newState(e.g)
	e.q = newQueries(e.g, e.s, zone)
	return e
}

// Ready is closed once the first view of the replica was taken in.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Run follows the replica until ctx ends, whose error it returns. Call it once. When it returns,
// all watches have ended.
func (e *Engine) Run(ctx context.Context) error {
	sub := e.replica.Subscribe()
	defer sub.Close()
	defer e.end()
	group, ctx := errgroup.WithContext(ctx)
	want, got := make(chan struct{}), make(chan replica.Batch)
	// The subscription is asked only when the graph is at rest: until then it merges.
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-want:
			}
			b, err := sub.Next(ctx)
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case got <- b:
			}
		}
	})
	group.Go(func() error {
		ask := want
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case ask <- struct{}{}:
				ask = nil
			case b := <-got:
				e.process(b)
				ask = want
			case <-e.wake:
				e.processEvents()
			case <-e.good.judge:
				e.send(e.judge)
			}
		}
	})
	return group.Wait()
}

// send queues an event for Run's goroutine.
func (e *Engine) send(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue(f)
}

// queue is send for who holds mu.
func (e *Engine) queue(f func()) {
	if e.ended {
		return
	}
	e.events = append(e.events, f)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) takeEvents() []func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := e.events
	e.events = nil
	return events
}

// process takes a batch of the replica in.
func (e *Engine) process(b replica.Batch) {
	start := time.Now()
	changes := b.Changes
	if b.Reset {
		changes = difference(e.s.view, b.View)
	}
	e.g.Begin()
	e.follow(changes)
	e.s.apply(b.View, changes)
	for _, f := range e.takeEvents() {
		f()
	}
	e.g.Recompute()
	e.mu.Lock()
	e.view = b.View
	e.mu.Unlock()
	e.deliver(b.View.Revision(), b.Committed, changes)
	e.metrics.batch(start, len(changes))
	select {
	case <-e.ready:
	default:
		close(e.ready)
	}
}

func (e *Engine) processEvents() {
	events := e.takeEvents()
	if len(events) == 0 {
		return
	}
	e.g.Begin()
	for _, f := range events {
		f()
	}
	e.g.Recompute()
	e.mu.Lock()
	revision := e.processed
	e.mu.Unlock()
	e.deliver(revision, time.Time{}, nil)
	e.metrics.flush()
}

// deliver hands changed tables to their watches and moves the processed revision on. Without changes
// of the store it is about certificates, or what clients ask for.
func (e *Engine) deliver(revision uint64, committed time.Time, changes []store.Change) {
	e.offer(revision, committed, changes)
	urgent := len(e.notified) <= few
	for _, f := range e.notified {
		f.wake(urgent)
	}
	clear(e.notified)
	e.notified = e.notified[:0]
}

// few is how many proxies a batch may give something to and go before those of larger ones.
const few = 16

func (e *Engine) offer(revision uint64, committed time.Time, changes []store.Change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	after := e.processed
	e.processed = revision
	changed := e.dirty
	e.dirty = nil
	var r *rollup
	if revision > after && e.started() {
		r = e.record(after, revision, committed, changes)
	}
	for _, p := range changed {
		p.dirty = false
		table := p.table.Get()
		if table == nil {
			continue
		}
		last := e.tables[p.key]
		e.tables[p.key] = table
		// What has the same content came from other policies: that is worth knowing, and nothing to send.
		same := last != nil && table.Diff(last).Empty()
		for f := range p.watches {
			if same {
				f.latest = table
				continue
			}
			f.offer(table, after, revision, committed, r)
		}
	}
	for _, f := range e.resolving {
		f.resolved(revision)
	}
	e.resolving = e.resolving[:0]
	for f := range e.joining {
		if f.begin(revision); !f.waiting {
			delete(e.joining, f)
		}
	}
	e.failures = e.failed()
	e.recount()
	e.changed()
}

// started says that a view was taken in before: what the first one holds was changed before the start.
func (e *Engine) started() bool {
	select {
	case <-e.ready:
		return true
	default:
		return false
	}
}

func (e *Engine) markDirty(p *proxy) {
	if !p.dirty {
		p.dirty = true
		e.dirty = append(e.dirty, p)
	}
}

// SetIdentity gives a proxy its certificate; nil removes it.
func (e *Engine) SetIdentity(key mesh.Key, id *ir.Identity) {
	e.send(func() {
		if id == nil {
			delete(e.s.identities, key)
		} else {
			e.s.identities[key] = id
		}
		e.s.secrets.MarkDirty(key)
	})
}

// Config is what the engine believes that a followed proxy should have; false if no watch was opened
// for it. Where the proxy has an Envoy and a gRPC client, it is the Envoy's.
func (e *Engine) Config(key mesh.Key) (*delta.Table, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.tables[caller{proxy: key}]; ok {
		return t, ok
	}
	for c, t := range e.tables {
		if c.proxy == key {
			return t, true
		}
	}
	return nil, false
}

var errEnded = errors.New("the xDS engine has ended")

func (e *Engine) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	for f := range e.watches {
		f.wake(false)
	}
	e.changed()
}
