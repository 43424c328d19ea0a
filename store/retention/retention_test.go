package retention

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func write(t *testing.T, s store.Store, n int) uint64 {
	t.Helper()
	var last uint64
	for i := range n {
		res, err := s.Commit(t.Context(), store.Txn{
			Author: "test",
			Ops: []store.Op{store.Put{Resource: &mesh.Resource{
				Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"},
				Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{
					Kind: "MeshService",
					Name: fmt.Sprint(time.Now().UnixNano(), i),
				}},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		last = res.Revision
	}
	return last
}

func head(t *testing.T, s store.Store) func() uint64 {
	return func() uint64 {
		r, err := s.Revision(context.Background())
		if err != nil {
			t.Error(err)
		}
		return r
	}
}

// reaches says whether the log still has what follows a revision.
func reaches(t *testing.T, s store.Store, after uint64) bool {
	t.Helper()
	w, err := s.Watch(t.Context(), after)
	if errors.Is(err, store.ErrCompacted) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	return true
}

func run(t *testing.T, k *Keeper) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
}

// TestAge: what is older than the age goes, also when the process was restarted in between; nothing
// younger does.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		old := write(t, s, 10)
		cfg := Config{Store: s, Head: head(t, s), Age: 10 * time.Hour}
		stop := run(t, New(cfg))
		wait := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		wait(5 * time.Hour)
		young := write(t, s, 10)
		wait(time.Hour)
		stop()
		stop = run(t, New(cfg))
		wait(3 * time.Hour)
		if !reaches(t, s, 0) {
			t.Error("compacted after 9 h, want 10 h")
		}
		wait(2 * time.Hour)
		if reaches(t, s, old-1) || !reaches(t, s, old) {
			t.Error("after 11 h the log does not begin where it should")
		}
		wait(6 * time.Hour)
		if reaches(t, s, young-1) || !reaches(t, s, young) {
			t.Error("after 17 h the younger half is not gone")
		}
		stop()
	})
}

// TestCount: the log holds at most Revisions and a little more.
func TestCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		stop := run(t, New(Config{Store: s, Head: head(t, s), Revisions: 1000}))
		last := write(t, s, 1040)
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if !reaches(t, s, 0) {
			t.Error("compacted for 40 revisions: that is too often")
		}
		last = write(t, s, int(1100-last))
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if reaches(t, s, last-1001) || !reaches(t, s, last-1000) {
			t.Error("the log does not hold the last 1000 revisions")
		}
		stop()
	})
}

// away is a store that fails.
type away struct {
	*embedded.Store
	fails *atomic.Bool
}

func (a away) Compact(ctx context.Context, through uint64) error {
	if a.fails.Load() {
		return store.ErrUnavailable
	}
	return a.Store.Compact(ctx, through)
}

// TestStoreUnavailable: a store that is unavailable is tried again.
func TestStoreUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, fails := open(t), new(atomic.Bool)
		fails.Store(true)
		last := write(t, s, 1100)
		stop := run(t, New(Config{Store: away{s, fails}, Head: head(t, s), Revisions: 1000}))
		<-time.After(3 * time.Minute)
		synctest.Wait()
		fails.Store(false)
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if reaches(t, s, last-1001) {
			t.Error("not compacted once the store was back")
		}
		stop()
	})
}
