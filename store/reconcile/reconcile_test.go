package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faulty is a store whose commits fail as told. Only transactions of the loop's author are affected.
type faulty struct {
	store.Store
	mu sync.Mutex
	// fail is called with the number of the commit, from 1. It returns the error to give, and
	// whether the commit happens in spite of it.
	fail    func(n int) (err error, happens bool)
	commits int
	times   []time.Time
}

const author = "system:test"

func (f *faulty) Commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	if txn.Author != author {
		return f.Store.Commit(ctx, txn)
	}
	f.mu.Lock()
	f.commits++
	f.times = append(f.times, time.Now())
	var err error
	happens := true
	if f.fail != nil {
		err, happens = f.fail(f.commits)
	}
	f.mu.Unlock()

	if err == nil {
		return f.Store.Commit(ctx, txn)
	}
	if happens {
		if _, err := f.Store.Commit(ctx, txn); err != nil {
			return store.Result{}, err
		}
	}
	return store.Result{}, err
}

func source(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}
}

func derived(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshRetry, Mesh: "default", Name: name}
}

func put(k mesh.Key, label string) store.Put {
	r := &mesh.Resource{Key: k, Labels: map[string]string{"value": label}}
	if k.Kind == mesh.KindMeshTimeout {
		r.Spec = &meshv1.MeshTimeout{}
	} else {
		r.Spec = &meshv1.MeshRetry{}
	}
	return store.Put{Resource: r}
}

// copier keeps a MeshRetry with the label of each MeshTimeout.
type copier struct {
	dirty map[string]bool
	mu    sync.Mutex
	plans []time.Time // guarded by mu: tests read it while the loop goes on
	// next and err are put into each plan.
	next func(now time.Time) time.Time
	err  error
}

// planned is when plans were asked for.
func (c *copier) planned() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()

	return slices.Clone(c.plans)
}

func (c *copier) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	c.mu.Lock()
	c.plans = append(c.plans, in.Now)
	c.mu.Unlock()
	if c.dirty == nil {
		c.dirty = map[string]bool{}
	}
	if b := in.Batch; b != nil {
		for _, ch := range b.Changes {
			c.dirty[ch.Key.Name] = true
		}
		if b.Reset {
			for r := range b.View.All() {
				c.dirty[r.Key.Name] = true
			}
		}
	}

	plan := reconcile.Plan{Err: c.err}
	if c.next != nil {
		plan.Next = c.next(in.Now)
	}
	for _, name := range slices.Sorted(maps.Keys(c.dirty)) {
		from, ok := in.View.Get(source(name))
		to, copied := in.View.Get(derived(name))
		check := store.KeyAt{Key: derived(name)}
		if copied {
			check.Revision = to.Revision
		}
		switch {
		case !ok && copied:
			plan.Ops = append(plan.Ops, store.Delete{Key: derived(name)})
		case ok && (!copied || to.Labels["value"] != from.Labels["value"]):
			plan.Ops = append(plan.Ops, put(derived(name), from.Labels["value"]))
		default:
			continue
		}
		plan.Checks = append(plan.Checks, check)
	}
	return plan
}

func (c *copier) Done(err error) {
	if err == nil {
		clear(c.dirty)
	}
}

// world runs a replica; loops are started on it.
type world struct {
	t     *testing.T
	ctx   context.Context
	store *faulty
	rep   *replica.Replica
	reg   *prometheus.Registry
}

// newWorld must be called in a synctest bubble.
func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t:     t,
		store: &faulty{Store: st},
		rep:   replica.New(replica.Config{Store: st}),
		reg:   prometheus.NewRegistry(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.ctx = ctx
	done := make(chan error, 1)
	go func() { done <- w.rep.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = st.Close()
	})
	return w
}

// start runs a loop until stop is called; stop returns its error.
func (w *world) start(c reconcile.Controller, change func(*reconcile.Config)) (l *reconcile.Loop,
	stop func() error) {
	cfg := reconcile.Config{
		Name:       "copier",
		Author:     author,
		Deps:       reconcile.Deps{Store: w.store, Replica: w.rep, Registerer: w.reg},
		Controller: c,
		Follow:     true,
		Rand:       func() float64 { return 0 },
	}
	if change != nil {
		change(&cfg)
	}
	l = reconcile.New(cfg)
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

func (w *world) commit(ops ...store.Op) uint64 {
	w.t.Helper()
	res, err := w.store.Commit(w.ctx, store.Txn{Author: "test", Ops: ops})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Revision
}

func (w *world) value(k mesh.Key) string {
	w.t.Helper()
	r, err := w.store.Get(w.ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return "absent"
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Labels["value"]
}

// reconciles is the count of a result.
func (w *world) reconciles(result string) float64 {
	w.t.Helper()
	return w.metric("meridian_controller_reconciles_total", result)
}

// metric is the value of a metric of the loop, with the result unless that is empty; 0 if absent.
func (w *world) metric(name, result string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			of := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					of = l.GetValue()
				}
			}
			if of == result {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.commit(put(source("a"), "1"))
		c := &copier{}
		_, stop := w.start(c, nil)
		synctest.Wait()
		if got := w.value(derived("a")); got != "1" {
			t.Errorf("after the start: %s", got)
		}

		w.commit(put(source("a"), "2"))
		synctest.Wait()
		if got := w.value(derived("a")); got != "2" {
			t.Errorf("after a change: %s", got)
		}

		w.commit(store.Delete{Key: source("a")})
		synctest.Wait()
		if got := w.value(derived("a")); got != "absent" {
			t.Errorf("after a delete: %s", got)
		}
		if got := w.reconciles("written"); got != 3 {
			t.Errorf("%v written, want 3", got)
		}

		plans := len(c.planned())
		time.Sleep(time.Hour)
		if len(c.planned()) != plans {
			t.Error("a loop at rest planned")
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestRetriesWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const failures = 12
		w.store.fail = func(n int) (error, bool) {
			if n <= failures {
				return fmt.Errorf("%w: test", store.ErrUnavailable), false
			}
			return nil, true
		}
		_, stop := w.start(&copier{}, nil)
		defer func() { _ = stop() }()
		w.commit(put(source("a"), "1"))
		synctest.Wait()
		if got := w.metric("meridian_controller_retrying_bool", ""); got != 1 {
			t.Errorf("retrying is %v, want 1", got)
		}
		time.Sleep(time.Minute)

		if got := w.value(derived("a")); got != "1" {
			t.Errorf("in the end: %s", got)
		}
		if len(w.store.times) != failures+1 {
			t.Fatalf("%d commits, want %d", len(w.store.times), failures+1)
		}
		// Rand is 0: each delay is half of the full one.
		want := reconcile.DefaultMinRetry
		for i := range failures {
			got := w.store.times[i+1].Sub(w.store.times[i])
			if got != want/2 {
				t.Errorf("delay %d: %v, want %v", i+1, got, want/2)
			}
			want = min(want*2, reconcile.DefaultMaxRetry)
		}
		if got := w.reconciles("failed"); got != failures {
			t.Errorf("%v failed, want %d", got, failures)
		}
		if got := w.metric("meridian_controller_retrying_bool", ""); got != 0 {
			t.Errorf("retrying is %v, want 0", got)
		}
	})
}

func TestConflictPlansAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.commit(put(source("a"), "1"))
		w.store.fail = func(n int) (error, bool) {
			if n == 1 {
				// Another writer comes between plan and commit.
				if _, err := w.store.Store.Commit(w.ctx, store.Txn{
					Ops: []store.Op{put(derived("a"), "other")},
				}); err != nil {
					return err, false
				}
			}
			return nil, true
		}
		_, stop := w.start(&copier{}, nil)
		defer func() { _ = stop() }()
		synctest.Wait()
		if got := w.value(derived("a")); got != "1" {
			t.Errorf("after a conflict: %s", got)
		}
		if got := w.reconciles("conflict"); got != 1 {
			t.Errorf("%v conflicts, want 1", got)
		}
		if len(w.store.times) != 2 || !w.store.times[0].Equal(w.store.times[1]) {
			t.Errorf("commits at %v: the second did not follow at once", w.store.times)
		}
	})
}

func TestEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.store.fail = func(int) (error, bool) { return store.ErrClosed, false }
		l, stop := w.start(&copier{}, nil)
		w.commit(put(source("a"), "1"))
		synctest.Wait()
		if err := l.WaitUntilReconciled(t.Context(), 1); !errors.Is(err, store.ErrClosed) {
			t.Errorf("WaitUntilReconciled = %v", err)
		}
		if err := stop(); !errors.Is(err, store.ErrClosed) {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		c := &copier{next: func(now time.Time) time.Time {
			if now.Sub(start) >= 3*time.Hour {
				return time.Time{}
			}
			return now.Add(time.Hour)
		}}
		_, stop := w.start(c, nil)
		time.Sleep(24 * time.Hour)
		_ = stop()
		if len(c.planned()) != 4 {
			t.Fatalf("plans at %v, want 4", c.planned())
		}
		for i, at := range c.planned() {
			if got := at.Sub(start); got != time.Duration(i)*time.Hour {
				t.Errorf("plan %d after %v", i, got)
			}
		}
	})
}

func TestWakesWithoutFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := &copier{}
		wake := make(chan struct{}, 1)
		l, stop := w.start(c, func(cfg *reconcile.Config) {
			cfg.Follow = false
			cfg.Wake = func() <-chan struct{} { return wake }
		})
		defer func() { _ = stop() }()
		synctest.Wait()
		revision := w.commit(put(source("a"), "1"))
		synctest.Wait()
		if len(c.planned()) != 1 {
			t.Errorf("%d plans: the store woke a loop that does not follow", len(c.planned()))
		}

		wake <- struct{}{}
		synctest.Wait()
		if len(c.planned()) != 2 {
			t.Errorf("%d plans after a wake-up, want 2", len(c.planned()))
		}

		next := w.commit(put(source("b"), "1"))
		if err := l.WaitUntilReconciled(t.Context(), next); err != nil {
			t.Error(err)
		}
		if err := l.WaitUntilReconciled(t.Context(), revision); err != nil {
			t.Error(err)
		}
	})
}

func TestWaitUntilReconciled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		broken := true
		w.store.fail = func(int) (error, bool) {
			if broken {
				return fmt.Errorf("%w: test", store.ErrUnavailable), false
			}
			return nil, true
		}
		l, stop := w.start(&copier{}, nil)
		revision := w.commit(put(source("a"), "1"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.WaitUntilReconciled(ctx, revision); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while commits fail: %v", err)
		}

		w.store.mu.Lock()
		broken = false
		w.store.mu.Unlock()
		if err := l.WaitUntilReconciled(t.Context(), revision); err != nil {
			t.Error(err)
		}
		if got := w.value(derived("a")); got != "1" {
			t.Errorf("reconciled with %s", got)
		}

		_ = stop()
		if err := l.WaitUntilReconciled(t.Context(), revision); err != nil {
			t.Errorf("of what was reconciled before the end: %v", err)
		}
		next := w.commit(put(source("a"), "2"))
		if err := l.WaitUntilReconciled(t.Context(), next); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// What could be planned is written although something else could not, which is retried.
func TestPartOfAPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := &copier{err: errors.New("no answer from the signer")}
		_, stop := w.start(c, nil)
		w.commit(put(source("a"), "1"))
		synctest.Wait()
		if got := w.value(derived("a")); got != "1" {
			t.Errorf("what could be planned: %s", got)
		}
		plans := len(c.planned())
		time.Sleep(time.Minute)
		_ = stop()
		if len(c.planned()) < plans+10 {
			t.Errorf("%d plans in a minute", len(c.planned())-plans)
		}
		if got := w.reconciles("failed"); int(got) != len(c.planned()) {
			t.Errorf("%v failed of %d", got, len(c.planned()))
		}
	})
}

// However commits fail and loops crash, the end is what a rebuild makes.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomFaults(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func randomFaults(t *testing.T, rnd *rand.Rand) {
	w := newWorld(t)
	healthy := false
	// The loop's goroutine asks this one, so that it has dice of its own.
	faults := rand.New(rand.NewPCG(rnd.Uint64(), 2))
	w.store.fail = func(int) (error, bool) {
		if healthy || faults.IntN(2) == 0 {
			return nil, true
		}
		return fmt.Errorf("%w: test", store.ErrUnavailable), faults.IntN(2) == 0
	}
	restart := func() func() error {
		_, stop := w.start(&copier{}, func(cfg *reconcile.Config) { cfg.Registerer, cfg.Rand = nil, nil })
		return stop
	}
	stop := restart()
	for range 200 {
		k := source(fmt.Sprint(rnd.IntN(5)))
		switch rnd.IntN(8) {
		case 0:
			_ = stop()
			stop = restart()
		case 1:
			w.commit(store.Delete{Key: k})
		case 2:
			k.Kind = mesh.KindMeshRetry
			w.commit(put(k, "other"))
		case 3:
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		default:
			w.commit(put(k, fmt.Sprint(rnd.IntN(3))))
		}
	}

	w.store.mu.Lock()
	healthy = true
	w.store.mu.Unlock()
	time.Sleep(2 * reconcile.DefaultMaxRetry)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run = %v", err)
	}

	fresh := &copier{}
	view := w.rep.View()
	plan := fresh.Plan(w.ctx, reconcile.Input{
		View:  view,
		Batch: &replica.Batch{View: view, Reset: true},
	})
	if len(plan.Ops) != 0 {
		t.Errorf("a rebuild would write %+v", plan.Ops)
	}
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := reconcile.Retry(t.Context(), zap.NewNop(), "test", func() error {
			if calls++; calls < 4 {
				return fmt.Errorf("%w: test", store.ErrUnavailable)
			}
			return nil
		})
		if err != nil || calls != 4 {
			t.Errorf("%d calls, %v", calls, err)
		}

		broken := errors.New("broken")
		if err := reconcile.Retry(t.Context(), zap.NewNop(), "test",
			func() error { return broken }); !errors.Is(
			err, broken) {
			t.Errorf("another error: %v", err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = reconcile.Retry(ctx, zap.NewNop(), "test", func() error { return store.ErrUnavailable })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the context: %v", err)
		}
	})
}
