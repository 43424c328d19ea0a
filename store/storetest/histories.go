package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// testConcurrentWriters: 32 writers, each of its own keys; nothing is lost and every revision is one commit.
func testConcurrentWriters(t *testing.T, in Instance) {
	s := in.Store
	const writers, each = 32, 25
	w := watch(t, s, 0)
	var mu sync.Mutex
	at := map[uint64]string{}
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("w%d-%d", writer, i)
				res, err := s.Commit(t.Context(), store.Txn{
					Author: name,
					Ops:    []store.Op{store.Put{Resource: policy(timeoutKey(name), i)}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := at[res.Revision]; ok {
					t.Errorf("%s and %s both got revision %d", other, name, res.Revision)
				}
				at[res.Revision] = name
				mu.Unlock()
			}
		})
	}
	commits := collect(t, w, 0, writers*each) // reads while they write
	wg.Wait()
	for _, c := range commits {
		if c.Author != at[c.Revision] || len(c.Changes) != 1 || c.Changes[0].Key.Name != c.Author {
			t.Fatalf("revision %d is by %s, answered to %s, with %v", c.Revision, c.Author, at[c.Revision],
				c.Changes)
		}
	}
	if snap := snapshot(t, s); len(snap.Resources) != writers*each || snap.Revision != writers*each {
		t.Errorf("%d resources at revision %d", len(snap.Resources), snap.Revision)
	}
}

// testConcurrentCounters: read, add one, write with a check; the sum shows every lost update.
func testConcurrentCounters(t *testing.T, in Instance) {
	s := in.Store
	const writers, each = 8, 20
	key := timeoutKey("counter")
	commit(t, s, store.Put{Resource: policy(key, 0)})
	stores := []store.Store{s}
	if in.Another != nil {
		stores = append(stores, in.Another(t))
	}
	var wg sync.WaitGroup
	for i := range writers {
		s := stores[i%len(stores)]
		wg.Go(func() {
			for done := 0; done < each; {
				r, err := s.Get(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = s.Commit(t.Context(), store.Txn{
					Checks: []store.Check{store.KeyAt{Key: key, Revision: r.Revision}},
					Ops:    []store.Op{store.Put{Resource: policy(key, number(r)+1)}},
				})
				var conflict *store.ConflictError
				switch {
				case err == nil:
					done++
				case !errors.As(err, &conflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := number(get(t, s, key)); got != writers*each {
		t.Errorf("counter is %d, want %d", got, writers*each)
	}
}

// testSnapshotUnderWriters: each transaction moves one unit between two accounts, so every snapshot
// has the same sum, and a snapshot equals the log folded to its revision.
func testSnapshotUnderWriters(t *testing.T, in Instance) {
	s := in.Store
	const accounts, moves = 6, 120
	var ops []store.Op
	account := func(i int) mesh.Key { return timeoutKey(fmt.Sprint("account", i)) }
	for i := range accounts {
		ops = append(ops, store.Put{Resource: policy(account(i), 100)})
	}
	commit(t, s, ops...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(1, 2))
		for range moves {
			from := rng.IntN(accounts)
			to := (from + 1 + rng.IntN(accounts-1)) % accounts
			a, err1 := s.Get(t.Context(), account(from))
			b, err2 := s.Get(t.Context(), account(to))
			if err := errors.Join(err1, err2); err != nil {
				t.Error(err)
				return
			}
			_, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{
				store.Put{Resource: policy(account(from), number(a)-1)},
				store.Put{Resource: policy(account(to), number(b)+1)}}})
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	state, w, at := map[mesh.Key]*mesh.Resource{}, watch(t, s, 0), uint64(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		snap := snapshot(t, s)
		sum := 0
		for _, r := range snap.Resources {
			sum += number(r)
		}
		if sum != accounts*100 {
			t.Fatalf("sum is %d at revision %d", sum, snap.Revision)
		}
		fold(t, state, collect(t, w, at, snap.Revision))
		at = snap.Revision
		sameState(t, fmt.Sprint("snapshot and folded watch at ", at), state, snap.Resources)
	}
}

// model is a store that is obviously right.
type model struct {
	revision uint64
	state    map[mesh.Key]*mesh.Resource
	kind     uint64 // revision of the last change of spec
}

// testRandomHistory runs random transactions against the store and the model.
func testRandomHistory(t *testing.T, in Instance) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := in.Store
	m := model{state: map[mesh.Key]*mesh.Resource{}}
	steps := 400
	for step := range steps {
		txn, want, conflict := m.step(rng)
		res, err := s.Commit(t.Context(), txn)
		var c *store.ConflictError
		switch {
		case conflict && !errors.As(err, &c):
			t.Fatalf("step %d: err = %v, want a conflict for %+v", step, err, txn)
		case !conflict && err != nil:
			t.Fatalf("step %d: %v for %+v", step, err, txn)
		case !conflict && res != want:
			t.Fatalf("step %d: %+v, want %+v for %+v", step, res, want, txn)
		}
		if step%50 == 49 || step == steps-1 {
			if in.Reopen != nil && rng.IntN(3) == 0 {
				s = in.Reopen(t)
			}
			m.check(t, s)
		}
	}
	state := map[mesh.Key]*mesh.Resource{}
	fold(t, state, collect(t, watch(t, s, 0), 0, m.revision))
	sameState(t, "folded log and snapshot", state, snapshot(t, s).Resources)
}

// step makes a random transaction and does it to the model.
func (m *model) step(rng *rand.Rand) (store.Txn, store.Result, bool) {
	var txn store.Txn
	conflict := false
	if rng.IntN(4) == 0 {
		key := timeoutKey(fmt.Sprint("k", rng.IntN(12)))
		var at uint64
		if r := m.state[key]; r != nil {
			at = r.Revision
		}
		if rng.IntN(3) == 0 {
			at++
			conflict = true
		}
		txn.Checks = append(txn.Checks, store.KeyAt{Key: key, Revision: at})
	}
	if rng.IntN(4) == 0 {
		since := m.kind
		if since > 0 && rng.IntN(3) == 0 {
			since--
			conflict = true
		}
		txn.Checks = append(txn.Checks, store.KindUnchanged{
			Kind:  mesh.KindMeshTimeout,
			Mesh:  "default",
			Since: since,
		})
	}
	next := map[mesh.Key]*mesh.Resource{}
	revision, kind := m.revision+1, m.kind
	changed := false
	for _, i := range rng.Perm(12)[:1+rng.IntN(4)] {
		key := timeoutKey(fmt.Sprint("k", i))
		old := m.state[key]
		switch rng.IntN(4) {
		case 0:
			txn.Ops = append(txn.Ops, store.Delete{Key: key})
			if old != nil {
				next[key], changed, kind = nil, true, revision
			}
		case 1:
			st := status(fmt.Sprint(rng.IntN(3)))
			txn.Ops = append(txn.Ops, store.PutStatus{Key: key, Status: st})
			if old != nil && (old.Status == nil ||
				old.Status.(interface{ String() string }).String() != st.String()) {
				n := *old
				n.Status, n.StatusRevision = st, revision
				next[key], changed = &n, true
			}
		default:
			r := policy(key, rng.IntN(3))
			txn.Ops = append(txn.Ops, store.Put{Resource: r})
			switch {
			case old == nil:
				n := *r
				n.Revision, n.Generation = revision, 1
				next[key], changed, kind = &n, true, revision
			case number(old) != number(r):
				n := *old
				n.Spec, n.Revision, n.Generation = r.Spec, revision, old.Generation+1
				next[key], changed, kind = &n, true, revision
			}
		}
	}
	if conflict {
		return txn, store.Result{}, true
	}
	if changed {
		m.revision, m.kind = revision, kind
		for k, r := range next {
			if r == nil {
				delete(m.state, k)
			} else {
				m.state[k] = r
			}
		}
	}
	return txn, store.Result{Revision: m.revision, Changed: changed}, false
}

// check compares all but times.
func (m *model) check(t *testing.T, s store.Store) {
	t.Helper()
	snap := snapshot(t, s)
	if snap.Revision != m.revision {
		t.Fatalf("revision is %d, want %d", snap.Revision, m.revision)
	}
	var got []*mesh.Resource
	for _, r := range snap.Resources {
		c := *r
		c.Created, c.Modified = time.Time{}, time.Time{}
		got = append(got, &c)
	}
	sameState(t, fmt.Sprint("model and store at ", m.revision), m.state, got)
}

// testTwoReplicas: two processes on one store see one history.
func testTwoReplicas(t *testing.T, in Instance) {
	if in.Another == nil {
		t.Skip("this store has one process")
	}
	a, b := in.Store, in.Another(t)
	if a.ID() != b.ID() {
		t.Fatalf("IDs are %s and %s", a.ID(), b.ID())
	}
	const each = 40
	wa, wb := watch(t, a, 0), watch(t, b, 0)
	var wg sync.WaitGroup
	for name, s := range map[string]store.Store{"a": a, "b": b} {
		for writer := range 4 {
			wg.Go(func() {
				for i := range each {
					key := timeoutKey(fmt.Sprintf("%s-%d-%d", name, writer, i))
					if _, err := s.Commit(t.Context(), store.Txn{
						Author: name,
						Ops:    []store.Op{store.Put{Resource: policy(key, i)}},
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	total := uint64(8 * each)
	ca, cb := collect(t, wa, 0, total), collect(t, wb, 0, total)
	wg.Wait()
	for i := range ca {
		if ca[i].Author != cb[i].Author || ca[i].Changes[0].Key != cb[i].Changes[0].Key {
			t.Fatalf("revision %d differs: %v and %v", i+1, ca[i], cb[i])
		}
	}
}

// BenchmarkCommit32Writers measures committed changes per second: each a transaction of one policy,
// of 32 writers.
func BenchmarkCommit32Writers(b *testing.B, factory Factory) {
	s := factory(b).Store
	const writers = 32
	start, err := s.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	b.ResetTimer()
	for writer := range writers {
		n := b.N / writers
		if writer < b.N%writers {
			n++
		}
		wg.Go(func() {
			for i := range n {
				key := timeoutKey(fmt.Sprintf("w%d-%d", writer, i%50))
				if _, err := s.Commit(b.Context(), store.Txn{
					Author: "bench",
					Ops:    []store.Op{store.Put{Resource: policy(key, i)}},
				}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	end, err := s.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if end-start != uint64(b.N) {
		b.Fatalf("%d commits gave %d revisions", b.N, end-start)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}
