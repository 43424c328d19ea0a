package xds

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
)

// propagations is how many changes were timed to their last answer.
func propagations(t *testing.T, e *Engine) uint64 {
	t.Helper()
	var m dto.Metric
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.metrics.propagation.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram().GetSampleCount()
}

// TestRollUp: of every change it is known whom it lastChange, who has answered, who rejected and who left.
func TestRollUp(t *testing.T) {
	r := start(t)
	web, shop, idle := testDataplane("web-1", "10.0.0.2", "web", 8080, "api"),
		testDataplane("shop-1", "10.0.0.3", "shop", 8080, "api"),
		testDataplane("idle-1", "10.0.0.4", "idle", 8080)
	r.put(testMesh(""), testService(testZone, "api", 8080), web, shop, idle)
	watches := map[string]delta.Watch{}
	for _, dp := range []*mesh.Resource{web, shop, idle} {
		f := r.e.Open(delta.OpenRequest{Proxy: dp.Key})
		defer f.Close()
		f.Ack(r.next(f).Revision, nil)
		watches[dp.Key.Name] = f
	}
	r.until(func(p Progress) bool { return p.PendingCount == 0 })
	change := func(rev uint64) Change {
		t.Helper()
		c, state := r.e.Change(rev)
		if state != store.RevisionKnown {
			t.Fatalf("revision %d: state %d", rev, state)
		}
		return c
	}

	timed := propagations(t, r.e)
	api := testDataplane("api-1", "10.0.0.9", "api", 8080)
	rev := r.put(api)
	r.until(func(p Progress) bool { return p.Revision == rev })
	c := change(rev)
	if c.Affected != 2 || c.Acked != 0 || len(c.Pending) != 2 || !c.Done.IsZero() || c.InputCount != 1 ||
		c.Inputs[0] != api.Key {
		t.Fatalf("no answer yet, but: %+v", c)
	}
	if !slices.Contains(c.Notified, web.Key) || !slices.Contains(c.Notified, shop.Key) ||
		slices.Contains(c.Notified, idle.Key) {
		t.Fatalf("notified %v", c.Notified)
	}
	watches["web-1"].Ack(r.next(watches["web-1"]).Revision, nil)
	if n := propagations(t, r.e); n != timed {
		t.Errorf("a change was timed before its last answer")
	}
	if c = change(rev); c.Acked != 1 || len(c.Pending) != 1 || c.Pending[0] != shop.Key {
		t.Fatalf("web has answered: %+v", c)
	}
	u := r.next(watches["shop-1"])
	if c = change(rev); len(c.Pending) != 1 {
		t.Fatalf("what was pushed is pending: %+v", c)
	}
	rejection := delta.Rejection{Type: delta.TypeEndpoint, Resource: "x", Reason: "no", Revision: u.Revision}
	watches["shop-1"].Ack(u.Revision, []delta.Rejection{rejection})
	if c = change(rev); c.Acked != 2 || c.Rejected != 1 || c.Done.IsZero() || len(c.Rejections) != 1 ||
		mesh.KeyFromProto(c.Rejections[0].GetProxy()) != shop.Key {
		t.Fatalf("all have answered: %+v", c)
	}

	if n := propagations(t, r.e); n != timed+1 {
		t.Errorf("%d changes were timed, want one more than %d", n, timed)
	}

	// Two changes that a slow proxy gets in one are both answered by one answer, and one that
	// leaves has nothing pending any more.
	first := r.put(testDataplane("api-2", "10.0.0.10", "api", 8080))
	second := r.put(testDataplane("api-3", "10.0.0.11", "api", 8080))
	r.until(func(p Progress) bool { return p.Revision == second })
	watches["web-1"].Ack(r.next(watches["web-1"]).Revision, nil)
	watches["shop-1"].Close()
	for _, rev := range []uint64{first, second} {
		if c := change(rev); c.Affected != 2 || c.Acked != 1 || c.Disconnected != 1 || c.Done.IsZero() ||
			len(c.Pending) != 0 {
			t.Fatalf("revision %d: %+v", rev, c)
		}
	}

	// What affects no proxy is known too; what is ahead or forgotten is reported as such.
	rev = r.put(testService(testZone, "unheard", 8080))
	r.until(func(p Progress) bool { return p.Revision == rev })
	if c := change(rev); c.Affected != 0 || c.InputCount == 0 {
		t.Fatalf("no proxy is affected: %+v", c)
	}
	if _, state := r.e.Change(rev + 1); state != store.RevisionAhead {
		t.Errorf("a revision that is not there: %d", state)
	}
	for i := range maxChanges {
		rev = r.put(testService(testZone, fmt.Sprintf("more-%d", i), 8080))
	}
	r.until(func(p Progress) bool { return p.Revision == rev })
	if _, state := r.e.Change(first); state == store.RevisionAhead {
		t.Errorf("an old revision: %d", state)
	}

	state := func() StreamState {
		t.Helper()
		s, ok := r.e.StreamState(watches["web-1"])
		if !ok {
			t.Fatal("web has no stream")
		}
		return s
	}
	if s := state(); s.LastChange == nil || s.LastChange.Last < second || s.Acked != rev {
		t.Fatalf("web: %+v", s)
	}
	rev = r.put(testDataplane("api-4", "10.0.0.12", "api", 8080))
	r.until(func(p Progress) bool { return p.Revision == rev })
	if s := state(); s.Acked != rev-1 || s.LastChange.Last != rev || len(s.LastChange.Inputs) != 1 ||
		s.Desired == nil {
		t.Fatalf("an answer of web is pending: %+v", s)
	}
	if _, ok := r.e.StreamState(watches["shop-1"]); ok {
		t.Error("a proxy that left has a stream")
	}
}

// TestRollUpIsBounded: a client that never answers has no more pending than is remembered, whether it
// reads or not.
func TestRollUpIsBounded(t *testing.T) {
	for name, reads := range map[string]bool{"reads": true, "does not read": false} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			web := testDataplane("web-1", "10.0.0.2", "web", 8080, "api")
			r.put(testMesh(""), testService(testZone, "api", 8080), web)
			f := r.e.Open(delta.OpenRequest{Proxy: web.Key}).(*watch)
			defer f.Close()
			f.Ack(r.next(f).Revision, nil)
			var rev uint64
			for i := range 2*maxChanges + 50 {
				rev = r.put(testDataplane("api-1", fmt.Sprintf("10.1.%d.%d", i/200, i%200), "api", 8080))
				r.until(func(p Progress) bool { return p.Revision == rev }) // one batch each
				if reads {
					r.next(f)
				}
			}
			r.e.mu.Lock()
			changes, kept := 0, len(r.e.changes)
			if f.pending != nil {
				changes = len(f.pending.changes)
			}
			for _, d := range f.pushed {
				changes += len(d.changes)
			}
			if changes > 2*maxChanges+maxPushed || changes < maxChanges/2 || kept > maxChanges ||
				len(f.pushed) > maxPushed {
				t.Errorf("%d changes wait, %d are kept, of %d updates", changes, kept, len(f.pushed))
			}
			r.e.mu.Unlock()
			if !reads {
				r.next(f)
			}
			f.Ack(rev, nil)
			for at := rev - 300; at <= rev; at += 100 {
				if c, state := r.e.Change(at); state != store.RevisionKnown || c.Acked != 1 ||
					c.Done.IsZero() {
					t.Errorf("revision %d: state %d, %+v", at, state, c)
				}
			}
			if _, state := r.e.Change(5); state != store.RevisionForgotten {
				t.Errorf("the first change is in state %d", state)
			}
			if p := r.e.Progress(); p.PendingCount != 0 || p.Acked != rev {
				t.Errorf("after the answer: %+v", p)
			}
		})
	}
}

// TestRollUpOfWhatCannotBeMade: the change that brought a policy of which nothing can be made says
// so; later ones do not.
func TestRollUpOfWhatCannotBeMade(t *testing.T) {
	r := start(t)
	web := testDataplane("web-1", "10.0.0.2", "web", 8080, "api")
	r.put(testMesh(""), testService(testZone, "api", 8080), testDataplane("api-1", "10.0.0.9", "api", 8080),
		web)
	f := r.e.Open(delta.OpenRequest{Proxy: web.Key})
	defer f.Close()
	f.Ack(r.next(f).Revision, nil)
	r.until(func(p Progress) bool { return p.PendingCount == 0 })
	r.e.send(func() {
		r.e.q.cluster.SetFunc(func(*graph.Reader, clusterKey) (*delta.Resource, error) {
			return nil, errors.New("broken")
		})
	})
	timeout := &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"},
		Spec: &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
			To: []*meshv1.MeshTimeout_To{{TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
				Default: &meshv1.MeshTimeout_Conf{ConnectionTimeout: durationpb.New(3 * time.Second)}}},
		},
	}
	bad := r.put(timeout)
	r.until(func(p Progress) bool { return p.Revision == bad })
	later := r.put(testService(testZone, "unheard", 8080))
	r.until(func(p Progress) bool { return p.Revision == later })
	c, _ := r.e.Change(bad)
	if len(c.Rejections) == 0 || c.Rejections[0].GetStage() != meshv1.Rejection_STAGE_TRANSLATION ||
		mesh.KeyFromProto(c.Rejections[0].GetProxy()) != web.Key {
		t.Errorf("the change that cannot be made: %+v", c)
	}
	if c, _ := r.e.Change(later); len(c.Rejections) != 0 {
		t.Errorf("a later change is blamed: %+v", c.Rejections)
	}
}

// BenchmarkRollUp: the bookkeeping of one change that 5,000 proxies take and answer, without what
// is computed and sent. Half of the answers come while further changes wait.
func BenchmarkRollUp(b *testing.B) {
	const proxies = 5000
	e := newEngine(testZone)
	close(e.ready)
	watches := make([]*watch, proxies)
	for i := range watches {
		watches[i] = &watch{
			e: e,
			key: mesh.Key{
				Kind: mesh.KindDataplane,
				Mesh: "default",
				Zone: testZone,
				Name: fmt.Sprint("dp-", i),
			},
		}
		e.watches[watches[i]] = struct{}{}
	}
	table := &delta.Table{}
	changes := []store.Change{{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"}}}
	revision := uint64(0)
	change := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		revision++
		e.processed = revision
		r := e.record(revision-1, revision, time.Time{}, changes)
		for _, f := range watches {
			f.offer(table, revision-1, revision, time.Time{}, r)
		}
		e.notified = e.notified[:0]
	}
	b.ReportAllocs()
	for b.Loop() {
		change()
		change()
		for i, f := range watches {
			u, _, _ := f.Next()
			if i == proxies/2 {
				change()
			}
			f.Ack(u.Revision, nil)
		}
		for _, f := range watches {
			if u, ok, _ := f.Next(); ok {
				f.Ack(u.Revision, nil)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(3*proxies), "ns/proxy-and-change")
	if c, _ := e.Change(revision); c.Acked != proxies {
		b.Fatalf("%+v", c)
	}
}
