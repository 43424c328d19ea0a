package replica_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}
}

func policy(k mesh.Key, n int) *mesh.Resource {
	return &mesh.Resource{
		Key:  k,
		Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{Name: strconv.Itoa(n)}},
	}
}

func memory(t *testing.T) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func commit(t *testing.T, s store.Store, ops ...store.Op) uint64 {
	t.Helper()
	res, err := s.Commit(context.Background(), store.Txn{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return res.Revision
}

// run starts a replica and ends it with the test.
func run(t *testing.T, s store.Store) *replica.Replica {
	t.Helper()
	r := replica.New(replica.Config{Store: s, Registerer: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, store.ErrClosed) {
			t.Errorf("Run = %v", err)
		}
	})
	return r
}

func wait(t *testing.T, r *replica.Replica, revision uint64) replica.View {
	t.Helper()
	v, err := r.Wait(t.Context(), revision)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func next(t *testing.T, s *replica.Subscription) replica.Batch {
	t.Helper()
	b, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func contents(v replica.View) map[mesh.Key]*mesh.Resource {
	m := map[mesh.Key]*mesh.Resource{}
	for r := range v.All() {
		m[r.Key] = r
	}
	return m
}

func same(t *testing.T, what string, want, got map[mesh.Key]*mesh.Resource) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// reader folds a subscription and checks every change against what it saw before.
type reader struct {
	sub   *replica.Subscription
	state map[mesh.Key]*mesh.Resource
	at    uint64
}

func (rd *reader) read(t *testing.T) replica.Batch {
	t.Helper()
	b := next(t, rd.sub)
	if b.Reset {
		if len(b.Changes) != 0 || b.From != 0 {
			t.Fatalf("a reset with changes %v from %d", b.Changes, b.From)
		}
		rd.state, rd.at = contents(b.View), b.View.Revision()
		return b
	}
	if b.From != rd.at {
		t.Fatalf("batch from %d, want %d", b.From, rd.at)
	}
	if b.Committed.IsZero() {
		t.Fatal("a batch without time")
	}
	seen := map[mesh.Key]bool{}
	for _, ch := range b.Changes {
		if seen[ch.Key] {
			t.Fatalf("%s changes twice in one batch", ch.Key)
		}
		seen[ch.Key] = true
		if rd.state[ch.Key] != ch.Old {
			t.Fatalf("old of %s is %v, the reader last saw %v", ch.Key, ch.Old, rd.state[ch.Key])
		}
		switch ch.Type {
		case store.ChangeDelete:
			if ch.Old == nil || ch.Resource != nil {
				t.Fatalf("deletion %+v", ch)
			}
			delete(rd.state, ch.Key)
			continue
		case store.ChangeSpec:
			if ch.Old != nil && ch.Old.Revision == ch.Resource.Revision {
				t.Fatalf("change of spec without one: %+v", ch)
			}
		case store.ChangeStatus:
			if ch.Old == nil || ch.Old.Revision != ch.Resource.Revision ||
				ch.Old.StatusRevision == ch.Resource.StatusRevision {
				t.Fatalf("change of status: %+v", ch)
			}
		}
		rd.state[ch.Key] = ch.Resource
	}
	rd.at = b.View.Revision()
	same(t, fmt.Sprint("fold and view at ", rd.at), contents(b.View), rd.state)
	return b
}

func TestRandomHistory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := memory(t)
	r := run(t, s)
	readers := make([]*reader, 5)
	for i := range readers {
		readers[i] = &reader{sub: r.Subscribe()}
		defer readers[i].sub.Close()
	}
	held := map[uint64]replica.View{}
	want := map[uint64]map[mesh.Key]*mesh.Resource{}
	for range 500 {
		k := key(fmt.Sprint("k", rng.IntN(15)))
		var op store.Op
		switch rng.IntN(4) {
		case 0:
			op = store.Delete{Key: k}
		case 1:
			op = store.PutStatus{
				Key: k,

				Status: &meshv1.DeliveryStatus{
					Conditions: []*meshv1.Condition{{Message: fmt.Sprint(rng.IntN(5))}},
				},
			}
		default:
			op = store.Put{Resource: policy(k, rng.IntN(5))}
		}
		revision := commit(t, s, op)
		for i, rd := range readers {
			// Readers of different speed; only who is behind has something to read.
			if rng.IntN(1+i*i*3) == 0 && (rd.at < revision || rd.state == nil) {
				wait(t, r, revision)
				rd.read(t)
			}
		}
		if rng.IntN(20) == 0 {
			held[revision] = wait(t, r, revision)
			snap, err := s.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want[revision] = contents(replica.NewView(snap.Revision, snap.Resources...))
		}
	}
	revision := commit(t, s, store.Put{Resource: policy(key("last"), 1)})
	v := wait(t, r, revision)
	for _, rd := range readers {
		for rd.at < revision {
			rd.read(t)
		}
		same(t, "reader at the end", contents(v), rd.state)
	}
	// Views that were held have not changed since.
	for revision, view := range held {
		same(t, fmt.Sprint("view held at ", revision), want[revision], contents(view))
	}
}

func TestSubscriptionMerges(t *testing.T) {
	s := memory(t)
	commit(t, s, store.Put{Resource: policy(key("kept"), 1)}, store.Put{Resource: policy(key("deleted"), 1)},
		store.Put{Resource: policy(key("again"), 1)})
	r := run(t, s)
	rd := &reader{sub: r.Subscribe()}
	defer rd.sub.Close()
	if b := rd.read(t); !b.Reset || b.View.Len() != 3 {
		t.Fatalf("first batch: %+v", b)
	}
	for i := range 50 {
		commit(t, s, store.Put{Resource: policy(key("kept"), i+2)})
	}
	commit(t, s, store.PutStatus{
		Key:    key("kept"),
		Status: &meshv1.DeliveryStatus{Conditions: []*meshv1.Condition{{Type: "x"}}},
	})
	commit(t, s, store.Put{Resource: policy(key("passing"), 1)})
	commit(t, s, store.Delete{Key: key("passing")}, store.Delete{Key: key("deleted")},
		store.Delete{Key: key("again")})
	wait(t, r, commit(t, s, store.Put{Resource: policy(key("again"), 1)}))
	b := rd.read(t)
	var got []string
	for _, ch := range b.Changes {
		got = append(got, fmt.Sprintf("%s:%d", ch.Key.Name, ch.Type))
	}
	if want := "[kept:1 deleted:3 again:1]"; fmt.Sprint(got) != want {
		t.Errorf("changes %v, want %s", got, want)
	}
	if kept := b.Changes[0]; kept.Resource.StatusRevision == kept.Old.StatusRevision {
		t.Error("the status that was written too does not show")
	}
	// What cancels out moves the revision all the same.
	commit(t, s, store.Put{Resource: policy(key("passing"), 1)})
	wait(t, r, commit(t, s, store.Delete{Key: key("passing")}))
	if b := rd.read(t); len(b.Changes) != 0 {
		t.Errorf("changes %+v of what came and went", b.Changes)
	}
	rd.sub.Close()
	rd.sub.Close()
	if _, err := rd.sub.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Next after Close = %v", err)
	}
}

func TestView(t *testing.T) {
	var zero replica.View
	if _, ok := zero.Get(key("a")); ok || zero.Revision() != 0 || zero.Len() != 0 ||
		len(contents(zero)) != 0 {
		t.Error("the zero View is not empty")
	}
	for range zero.List(mesh.KindMesh, "") {
		t.Error("the zero View lists something")
	}
	in := func(meshName, zone, name string) *mesh.Resource {
		return policy(mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: meshName, Zone: zone, Name: name}, 1)
	}
	m := &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}}
	v := replica.NewView(7, in("b", "", "y"), in("a", "", "z"), in("a", "east", "x"), in("a", "", "x"),
		in("ab", "", "x"), m)
	list := func(kind mesh.Kind, meshName string) string {
		var names []string
		for r := range v.List(kind, meshName) {
			names = append(names, r.Key.Mesh+"/"+r.Key.Zone+"/"+r.Key.Name)
		}
		return fmt.Sprint(names)
	}
	for _, tc := range []struct {
		kind mesh.Kind
		mesh string
		want string
	}{
		{mesh.KindMeshTimeout, "", "[a//x a/east/x a//z ab//x b//y]"},
		{mesh.KindMeshTimeout, "a", "[a//x a/east/x a//z]"},
		{mesh.KindMeshTimeout, "c", "[]"},
		{mesh.KindMesh, "", "[//default]"},
		{mesh.KindDataplane, "", "[]"},
	} {
		if got := list(tc.kind, tc.mesh); got != tc.want {
			t.Errorf("List(%s, %q) = %s, want %s", tc.kind, tc.mesh, got, tc.want)
		}
	}
	for range v.List(mesh.KindMeshTimeout, "") {
		break // ends early without harm
	}
	w := v.With(8, []store.Change{{Type: store.ChangeDelete, Key: m.Key}})
	if _, ok := w.Get(m.Key); ok || w.Revision() != 8 {
		t.Error("With did not delete")
	}
	if _, ok := v.Get(m.Key); !ok || v.Revision() != 7 {
		t.Error("With changed the view it came from")
	}
}

// faulty is a store whose reads fail on demand.
type faulty struct {
	store.Store
	mu   sync.Mutex
	fail map[string][]error // method → errors to give, first to last
}

func (f *faulty) take(method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q := f.fail[method]; len(q) > 0 {
		f.fail[method] = q[1:]
		return q[0]
	}
	return nil
}

func (f *faulty) set(method string, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[method] = errs
}

func (f *faulty) Snapshot(ctx context.Context) (store.Snapshot, error) {
	if err := f.take("snapshot"); err != nil {
		return store.Snapshot{}, err
	}
	return f.Store.Snapshot(ctx)
}

func (f *faulty) Watch(ctx context.Context, after uint64) (store.Watch, error) {
	if err := f.take("watch"); err != nil {
		return nil, err
	}
	w, err := f.Store.Watch(ctx, after)
	return &faultyWatch{w, f}, err
}

type faultyWatch struct {
	store.Watch
	f *faulty
}

func (w *faultyWatch) Next(ctx context.Context) (store.Commit, error) {
	if err := w.f.take("next"); err != nil {
		return store.Commit{}, err
	}
	c, err := w.Watch.Next(ctx)
	if err == nil {
		if injected := w.f.take("after"); injected != nil {
			return store.Commit{}, injected // the commit is lost, as when the log was compacted past it
		}
	}
	return c, err
}

// The store is unavailable for an hour: the replica serves what it has, and catches up within the
// longest pause.
func TestUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Store: memory(t), fail: map[string][]error{}}
		away := fmt.Errorf("%w: test", store.ErrUnavailable)
		f.set("snapshot", slices.Repeat([]error{away}, 1000)...)
		commit(t, f, store.Put{Resource: policy(key("a"), 1)})
		r := run(t, f)
		synctest.Wait()
		select {
		case <-r.Ready():
			t.Fatal("ready without a snapshot")
		default:
		}
		f.set("snapshot")
		f.set("watch", away, away)
		f.set("next", away, away, away)
		start := time.Now()
		wait(t, r, 1)
		f.set("after", away)
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("ready %v after the store came back", d)
		}
	})
}

// Compaction past the replica's place shows to subscribers as ordinary changes.
func TestCompacted(t *testing.T) {
	s := memory(t)
	f := &faulty{Store: s, fail: map[string][]error{}}
	commit(t, s, store.Put{Resource: policy(key("a"), 1)}, store.Put{Resource: policy(key("b"), 1)},
		store.Put{Resource: policy(key("c"), 1)})
	r := run(t, f)
	rd := &reader{sub: r.Subscribe()}
	defer rd.sub.Close()
	rd.read(t)
	f.set("after", store.ErrCompacted)
	revision := commit(t, s, store.Put{Resource: policy(key("a"), 2)}, store.Delete{Key: key("b")},
		store.Put{Resource: policy(key("d"), 1)},
		store.PutStatus{
			Key:    key("c"),
			Status: &meshv1.DeliveryStatus{Conditions: []*meshv1.Condition{{Type: "x"}}},
		})
	wait(t, r, revision)
	var got []string
	for rd.at < revision {
		for _, ch := range rd.read(t).Changes {
			got = append(got, fmt.Sprintf("%s:%d", ch.Key.Name, ch.Type))
		}
	}
	slices.Sort(got)
	if want := "[a:1 b:3 c:2 d:1]"; fmt.Sprint(got) != want {
		t.Errorf("changes %v, want %s", got, want)
	}
}

// A store that went back gives subscribers a Reset.
func TestStoreWentBack(t *testing.T) {
	a, b := memory(t), memory(t)
	for i := range 5 {
		commit(t, a, store.Put{Resource: policy(key("a"), i)})
	}
	commit(t, b, store.Put{Resource: policy(key("b"), 1)})
	sw := &switching{Store: a, other: b}
	r := run(t, sw)
	rd := &reader{sub: r.Subscribe()}
	defer rd.sub.Close()
	rd.read(t)
	sw.mu.Lock()
	sw.switched = true
	sw.mu.Unlock()
	commit(t, a, store.Put{Resource: policy(key("a"), 9)}) // wakes the watch
	for {
		b := rd.read(t)
		if b.Reset {
			break
		}
	}
	if names := slices.Collect(maps.Keys(rd.state)); len(names) != 1 || names[0].Name != "b" || rd.at != 1 {
		t.Errorf("after the reset: %v at %d", names, rd.at)
	}
	rd2 := commit(t, b, store.Put{Resource: policy(key("c"), 1)})
	wait(t, r, rd2)
	if got := rd.read(t); len(got.Changes) != 1 || got.From != 1 {
		t.Errorf("after the reset: %+v", got)
	}
}

// switching is a store that becomes another.
type switching struct {
	store.Store
	other    store.Store
	mu       sync.Mutex
	switched bool
}

func (s *switching) now() store.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.switched {
		return s.other
	}
	return s.Store
}

func (s *switching) Epoch() string { return s.now().Epoch() }

func (s *switching) Snapshot(ctx context.Context) (store.Snapshot, error) {
	return s.now().Snapshot(ctx)
}

func (s *switching) Watch(ctx context.Context, after uint64) (store.Watch, error) {
	w, err := s.now().Watch(ctx, after)
	return &switchingWatch{w, s, s.now()}, err
}

type switchingWatch struct {
	store.Watch
	s  *switching
	of store.Store
}

func (w *switchingWatch) Next(ctx context.Context) (store.Commit, error) {
	c, err := w.Watch.Next(ctx)
	if w.s.now() != w.of {
		return store.Commit{}, store.ErrCompacted
	}
	return c, err
}

// Errors that waiting does not cure end Run.
func TestRunEnds(t *testing.T) {
	f := &faulty{Store: memory(t), fail: map[string][]error{}}
	damage := &store.CorruptError{Where: "test", Err: errors.New("x")}
	f.set("snapshot", damage)
	var corrupt *store.CorruptError
	if err := replica.New(replica.Config{Store: f}).Run(t.Context()); !errors.As(err, &corrupt) {
		t.Errorf("Run = %v, want the damage", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := replica.New(replica.Config{Store: f}).Run(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Run = %v, want ErrClosed", err)
	}
}

func TestWait(t *testing.T) {
	s := memory(t)
	r := run(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := r.Wait(ctx, 1); done <- err }()
	wait(t, r, 0)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v", err)
	}
	if v := wait(t, r, commit(t, s, store.Put{Resource: policy(key("a"), 1)})); v.Len() != 1 {
		t.Errorf("view has %d resources", v.Len())
	}
}

func BenchmarkGet(b *testing.B) {
	var all []*mesh.Resource
	for i := range 10000 {
		all = append(all, policy(key(fmt.Sprint("k", i)), i))
	}
	v := replica.NewView(1, all...)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := v.Get(all[i%len(all)].Key); !ok {
			b.Fatal("not found")
		}
	}
}
