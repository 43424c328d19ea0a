package xds

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is an engine over a real store.
type running struct {
	t     *testing.T
	ctx   context.Context
	store store.Store
	e     *Engine
}

func start(t *testing.T) *running {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	rep := replica.New(replica.Config{Store: st})
	e := New(Config{Zone: testZone, Replica: rep})
	done := make(chan struct{}, 2)
	go func() { _ = rep.Run(ctx); done <- struct{}{} }()
	go func() { _ = e.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		_ = st.Close()
	})
	return &running{t: t, ctx: ctx, store: st, e: e}
}

func (r *running) put(rs ...*mesh.Resource) uint64 {
	r.t.Helper()
	txn := store.Txn{Author: "test"}
	for _, x := range rs {
		txn.Ops = append(txn.Ops, store.Put{Resource: x})
	}
	res, err := r.store.Commit(r.ctx, txn)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Revision
}

func (r *running) next(f delta.Watch) delta.Update {
	r.t.Helper()
	u, err := next(r.ctx, r.e, f)
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// next waits until a watch has something.
func next(ctx context.Context, e *Engine, f delta.Watch) (delta.Update, error) {
	for {
		changed := e.ProgressChanged()
		if u, ok, err := f.Next(); ok || err != nil {
			return u, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return delta.Update{}, ctx.Err()
		}
	}
}

// until waits for a state of Progress.
func (r *running) until(ok func(Progress) bool) Progress {
	r.t.Helper()
	for {
		ch := r.e.ProgressChanged()
		p := r.e.Progress()
		if ok(p) {
			return p
		}
		select {
		case <-ch:
		case <-r.ctx.Done():
			r.t.Fatalf("progress stays at %+v", p)
		}
	}
}

func TestFeedsAndProgress(t *testing.T) {
	r := start(t)
	r.put(testMesh(""), testService(testZone, "api", 8080), testService(testZone, "other", 8080),
		testDataplane("api-1", "10.0.0.1", "api", 8080))
	web := testDataplane("web-1", "10.0.0.2", "web", 8080, "api")
	idle := testDataplane("idle-1", "10.0.0.3", "idle", 8080)

	// A watch can be opened before its proxy is registered.
	early := r.e.Open(delta.OpenRequest{Proxy: web.Key})
	defer early.Close()
	rev := r.put(web, idle)
	fw, fi := early, r.e.Open(delta.OpenRequest{Proxy: idle.Key, MinRevision: rev})
	defer fi.Close()
	u := r.next(fw)
	if u.Revision != rev || u.Table.Lookup(delta.TypeCluster, "kri_msvc_default_east__api_http") == nil {
		t.Fatalf("first update %d lacks the destination", u.Revision)
	}
	if u := r.next(fi); u.Revision < rev {
		t.Fatalf("update of revision %d before its registration at %d", u.Revision, rev)
	}
	if p := r.e.Progress(); p.Online != 2 || p.PendingCount != 2 || p.Acked >= rev {
		t.Fatalf("no answer, yet %+v", p)
	}
	fw.Ack(rev, nil)
	fi.Ack(rev, nil)
	r.until(func(p Progress) bool { return p.Acked == rev && p.PendingCount == 0 })

	// One proxy is notified; the other has answered by not being concerned.
	rev = r.put(testDataplane("api-2", "10.0.0.4", "api", 8080))
	u = r.next(fw)
	if u.Revision != rev || u.Committed.IsZero() {
		t.Fatalf("update %d at %v, want revision %d and a time", u.Revision, u.Committed, rev)
	}
	p := r.until(func(p Progress) bool { return p.Revision == rev })
	if p.PendingCount != 1 || p.Pending[0] != web.Key || p.Acked != rev-1 {
		t.Fatalf("only an answer of web is pending: %+v", p)
	}
	rejection := delta.Rejection{Resource: "x", Reason: "no"}
	fw.Ack(rev, []delta.Rejection{rejection})
	p = r.until(func(p Progress) bool { return p.Acked == rev })
	if len(p.Rejections) != 1 || mesh.KeyFromProto(p.Rejections[0].GetProxy()) != web.Key ||
		p.Rejections[0].Reason != "no" {
		t.Fatalf("rejections %+v", p.Rejections)
	}

	// An identity is pushed to its proxy alone, and does not take an answer back.
	r.put(testMesh("STRICT"))
	for _, f := range []delta.Watch{fw, fi} {
		f.Ack(r.next(f).Revision, nil)
	}
	before := r.until(func(p Progress) bool { return p.Acked == p.Revision }).Acked
	r.e.SetIdentity(web.Key, testIdentity)
	u = r.next(fw)
	if u.Table.Lookup(delta.TypeSecret, "system_mtls_identity_default") == nil {
		t.Fatal("no certificate")
	}
	if p := r.e.Progress(); p.Acked != before || p.PendingCount != 1 {
		t.Fatalf("answered went from %d: %+v", before, p)
	}
	fw.Ack(u.Revision, nil)
	r.until(func(p Progress) bool { return p.PendingCount == 0 })

	// The engine's end ends its watches.
	fi.Close()
	fi.Close()
	r.until(func(p Progress) bool { return p.Online == 1 })
	if _, _, err := fi.Next(); err == nil {
		t.Fatal("a closed watch gives updates")
	}
}

// TestMergedUpdates: a slow proxy gets one update for many revisions, and its answer is pending from the
// first on.
func TestMergedUpdates(t *testing.T) {
	r := start(t)
	web := testDataplane("web-1", "10.0.0.2", "web", 8080, "api")
	r.put(testMesh(""), testService(testZone, "api", 8080), web)
	f := r.e.Open(delta.OpenRequest{Proxy: web.Key})
	defer f.Close()
	f.Ack(r.next(f).Revision, nil)
	base := r.until(func(p Progress) bool { return p.PendingCount == 0 }).Acked
	var last uint64
	for i := range 20 {
		last = r.put(testDataplane(fmt.Sprintf("api-%d", i), fmt.Sprintf("10.0.1.%d", i), "api", 8080))
	}
	p := r.until(func(p Progress) bool { return p.Revision == last })
	if p.Acked != base {
		t.Fatalf("answered %d, want %d", p.Acked, base)
	}
	u := r.next(f)
	if u.Revision != last {
		t.Fatalf("update %d, want all up to %d in one", u.Revision, last)
	}
	f.Ack(last, nil)
	r.until(func(p Progress) bool { return p.Acked == last })
}
