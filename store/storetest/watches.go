package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

func testWatchOrder(t *testing.T, in Instance) {
	s := in.Store
	w := watch(t, s, 0)
	const n = 300
	for i := range n {
		commit(t, s, store.Put{Resource: policy(timeoutKey(fmt.Sprint("k", i%7)), i)})
	}
	for i, c := range collect(t, w, 0, n) {
		if got := number(c.Changes[0].Resource); got != i {
			t.Fatalf("revision %d carries write %d, want %d", c.Revision, got, i)
		}
		if r := c.Changes[0].Resource; r.Revision != c.Revision {
			t.Fatalf("revision %d carries a resource of revision %d", c.Revision, r.Revision)
		}
	}
}

func testWatchBlocks(t *testing.T, in Instance) {
	s := in.Store
	w := watch(t, s, 0)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := w.Next(ctx)
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("Next = %v after its context ended", err)
	}
	// The watch goes on after that, and wakes for a commit that comes while it waits.
	got := make(chan store.Commit)
	go func() {
		c, err := w.Next(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	commit(t, s, store.Put{Resource: policy(timeoutKey("a"), 1)})
	if c := <-got; c.Revision != 1 {
		t.Errorf("revision %d", c.Revision)
	}
}

func testWatchResume(t *testing.T, in Instance) {
	s := in.Store
	const n = 20
	for i := range n {
		commit(t, s, store.Put{Resource: policy(timeoutKey("a"), i)})
	}
	for after := uint64(0); after <= n; after++ {
		w := watch(t, s, after)
		commits := collect(t, w, after, n)
		if uint64(len(commits)) != n-after {
			t.Errorf("after %d: %d commits", after, len(commits))
		}
		w.Close()
		w.Close()
		if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("Next after Close = %v", err)
		}
	}
}

func testWatchBeyondHead(t *testing.T, in Instance) {
	_, err := in.Store.Watch(t.Context(), 1)
	var invalid *store.InvalidError
	if !errors.As(err, &invalid) {
		t.Errorf("Watch beyond the head = %v, want InvalidError", err)
	}
}

func testCompact(t *testing.T, in Instance) {
	s := in.Store
	for i := range 10 {
		commit(t, s, store.Put{Resource: policy(timeoutKey(fmt.Sprint(i%2)), i)})
	}
	before := snapshot(t, s)
	for range 2 {
		if err := s.Compact(t.Context(), 6); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(t.Context(), 3); err != nil { // never goes back
		t.Fatal(err)
	}
	if in.Reopen != nil {
		s = in.Reopen(t)
	}
	for after := uint64(0); after <= 10; after++ {
		w, err := s.Watch(t.Context(), after)
		if after < 6 {
			if !errors.Is(err, store.ErrCompacted) {
				t.Errorf("Watch after %d = %v, want ErrCompacted", after, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		collect(t, w, after, 10)
		w.Close()
	}
	h, err := s.History(t.Context(), timeoutKey("1"), 0)
	if err != nil || len(h) != 2 || h[0].Revision != 10 || h[1].Revision != 8 {
		t.Errorf("history: %v, %v", h, err)
	}
	after := snapshot(t, s)
	want := map[mesh.Key]*mesh.Resource{}
	for _, r := range before.Resources {
		want[r.Key] = r
	}
	sameState(t, "compaction touched current state", want, after.Resources)
	// Compacting beyond the head compacts to the head.
	if err := s.Compact(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	w := watch(t, s, 10)
	commit(t, s, store.Put{Resource: policy(timeoutKey("a"), 1)})
	collect(t, w, 10, 11)
}

func testCompactUnderWatch(t *testing.T, in Instance) {
	s := in.Store
	commit(t, s, store.Put{Resource: policy(timeoutKey("a"), 0)})
	w := watch(t, s, 0)
	collect(t, w, 0, 1)
	for i := range 5 {
		commit(t, s, store.Put{Resource: policy(timeoutKey("a"), i+1)})
	}
	if err := s.Compact(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("Next = %v, want ErrCompacted", err)
	}
}

func testHistory(t *testing.T, in Instance) {
	s := in.Store
	a, b := timeoutKey("a"), timeoutKey("ab")
	commit(t, s, store.Put{Resource: policy(a, 1)}, store.Put{Resource: policy(b, 1)}) // 1
	commit(t, s, store.Put{Resource: policy(b, 2)})                                    // 2
	commit(t, s, store.Put{Resource: policy(a, 2)})                                    // 3
	commit(t, s, store.PutStatus{Key: a, Status: status("x")})                         // 4
	commit(t, s, store.Delete{Key: a})                                                 // 5
	h, err := s.History(t.Context(), a, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range h {
		if len(c.Changes) != 1 || c.Changes[0].Key != a {
			t.Fatalf("revision %d has changes %v", c.Revision, c.Changes)
		}
		got = append(got, fmt.Sprintf("%d:%d:%s", c.Revision, c.Changes[0].Type, c.Author))
	}
	if want := "[5:3:user:test 4:2:user:test 3:1:user:test 1:1:user:test]"; fmt.Sprint(got) != want {
		t.Errorf("history is %v, want %s", got, want)
	}
	if number(h[2].Changes[0].Old) != 1 || number(h[2].Changes[0].Resource) != 2 {
		t.Errorf("revision 3: %v", h[2].Changes[0])
	}
	if h, err := s.History(t.Context(), a, 2); err != nil || len(h) != 2 || h[0].Revision != 5 ||
		h[1].Revision != 4 {
		t.Errorf("limited history: %v, %v", h, err)
	}
	if h, err := s.History(t.Context(), b, 0); err != nil || len(h) != 2 {
		t.Errorf("history of b: %v, %v", h, err)
	}
}

func testReopen(t *testing.T, in Instance) {
	if in.Reopen == nil {
		t.Skip("this store keeps nothing")
	}
	s := in.Store
	for i := range 50 {
		commit(t, s, store.Put{Resource: policy(timeoutKey(fmt.Sprint("k", i%9)), i)}, store.SetMeta{
			Name:  "n",
			Value: fmt.Append(nil, i),
		})
	}
	commit(t, s, store.Delete{Key: timeoutKey("k3")}, store.PutStatus{
		Key:    timeoutKey("k4"),
		Status: status("kept"),
	})
	id, before := s.ID(), snapshot(t, s)
	log := collect(t, watch(t, s, 0), 0, 51)
	s = in.Reopen(t)
	if s.ID() != id {
		t.Errorf("ID is %s, was %s", s.ID(), id)
	}
	after := snapshot(t, s)
	if after.Revision != before.Revision {
		t.Errorf("revision is %d, was %d", after.Revision, before.Revision)
	}
	want := map[mesh.Key]*mesh.Resource{}
	for _, r := range before.Resources {
		want[r.Key] = r
	}
	sameState(t, "reopened", want, after.Resources)
	if v, err := s.Meta(t.Context(), "n"); err != nil || string(v) != "49" {
		t.Errorf("Meta = %q, %v", v, err)
	}
	again := collect(t, watch(t, s, 0), 0, 51)
	for i := range log {
		if !log[i].Time.Equal(again[i].Time) || log[i].Author != again[i].Author {
			t.Errorf("revision %d was %v by %q, is %v by %q", log[i].Revision, log[i].Time, log[i].Author,
				again[i].Time, again[i].Author)
		}
	}
	state := map[mesh.Key]*mesh.Resource{}
	fold(t, state, again)
	sameState(t, "folded log after reopening", want, keys(state))
	// Checks know what happened before.
	_, err := s.Commit(t.Context(), store.Txn{Checks: []store.Check{store.KindUnchanged{
		Kind:  mesh.KindMeshTimeout,
		Mesh:  "default",
		Since: 50,
	}}})
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) || conflict.Revision != 51 {
		t.Errorf("check after reopening: %v", err)
	}
	if res := commit(t, s, store.Put{Resource: policy(timeoutKey("new"), 1)}); res.Revision != 52 {
		t.Errorf("first commit after reopening: %+v", res)
	}
}

func keys(m map[mesh.Key]*mesh.Resource) []*mesh.Resource {
	var out []*mesh.Resource
	for _, r := range m {
		out = append(out, r)
	}
	return out
}

func testClose(t *testing.T, in Instance) {
	s := in.Store
	commit(t, s, store.Put{Resource: policy(timeoutKey("a"), 1)})
	const n = 4
	ended := make(chan error, n)
	for range n {
		w := watch(t, s, 1)
		go func() {
			_, err := w.Next(background())
			ended <- err
		}()
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-ended; !errors.Is(err, store.ErrClosed) {
			t.Errorf("Next = %v, want ErrClosed", err)
		}
	}
	ctx := t.Context()
	calls := map[string]func() error{
		"Commit": func() error {
			_, err := s.Commit(ctx,
				store.Txn{Ops: []store.Op{store.Put{Resource: policy(timeoutKey("a"), 2)}}})
			return err
		},
		"Get":      func() error { _, err := s.Get(ctx, timeoutKey("a")); return err },
		"Meta":     func() error { _, err := s.Meta(ctx, "a"); return err },
		"Revision": func() error { _, err := s.Revision(ctx); return err },
		"Snapshot": func() error { _, err := s.Snapshot(ctx); return err },
		"Watch":    func() error { _, err := s.Watch(ctx, 0); return err },
		"History":  func() error { _, err := s.History(ctx, timeoutKey("a"), 0); return err },
		"Compact":  func() error { return s.Compact(ctx, 1) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
}

func testCancelled(t *testing.T, in Instance) {
	s := in.Store
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Commit(ctx,
		store.Txn{Ops: []store.Op{store.Put{Resource: policy(timeoutKey("a"), 1)}}}); !errors.Is(err,
		context.Canceled) {
		t.Errorf("Commit = %v", err)
	}
	if rev, _ := s.Revision(t.Context()); rev != 0 {
		t.Errorf("a cancelled transaction committed")
	}
	if _, err := s.Get(ctx, timeoutKey("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Get = %v", err)
	}
	if _, err := s.Snapshot(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot = %v", err)
	}
}
