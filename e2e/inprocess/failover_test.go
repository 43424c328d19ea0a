package inprocess

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/postgres"
	"github.com/meridian-mesh/meridian/store/storetest"
	"github.com/meridian-mesh/meridian/test/pgtest"
	"github.com/meridian-mesh/meridian/test/roletest"
)

// failovers are a database that is behind what was read of it, and one that was written past it since.
var failovers = map[string]int{"behind": 0, "overtaken": 40}

// TestDatabaseOfGlobalWentBack: global's database fails over to a standby that lagged. What was lost is gone
// in the zone too, and no revision is called delivered that the zone does not have.
func TestDatabaseOfGlobalWentBack(t *testing.T) {
	for name, overtake := range failovers {
		t.Run(name, func(t *testing.T) {
			pair := pgtest.NewPair(t)
			w := newWorldOn(t, openPostgres(t, pair.URL()), "us-east")
			w.settled(w.apply(named("kept")))
			pair.Cut(t)
			var lost uint64
			for range 5 {
				lost = w.apply(named("lost"), named("lost-too"))
				w.settled(lost)
				if _, err := w.g.Store.Commit(w.ctx, store.Txn{Ops: []store.Op{
					store.Delete{Key: named("lost").Key},
				}}); err != nil {
					t.Fatal(err)
				}
			}
			epoch := w.g.Store.Epoch()
			failOver(t, pair, overtake)
			w.poll("in another epoch", func() bool { return w.g.Store.Epoch() != epoch })

			w.settled(w.applyUntil(named("fresh")))
			view := w.running["us-east"].Replica().View()
			for name, want := range map[string]bool{"kept": true, "fresh": true, "lost-too": false} {
				if _, ok := view.Get(named(name).Key); ok != want {
					t.Errorf("%s is in the zone: %v, want %v", name, ok, want)
				}
			}
			for _, z := range w.global.Status(w.ctx).GetZones() {
				if !z.GetDigestsEqual() {
					t.Errorf("digests of %s differ", z.GetName())
				}
			}
		})
	}
}

// TestDatabaseOfZoneWentBack: the same with the database of a zone: the zone has all of global's policies
// again, and global what the zone has.
func TestDatabaseOfZoneWentBack(t *testing.T) {
	for name, overtake := range failovers {
		t.Run(name, func(t *testing.T) {
			pair := pgtest.NewPair(t)
			w := newWorld(t)
			part := roletest.New(t)
			part.Store = openPostgres(t, pair.URL())
			w.zones["us-east"] = part
			w.startZone("us-east", w.zoneToken("us-east"))
			part.Ready(t, deadline)
			w.settled(w.apply(named("kept")))
			pair.Cut(t)
			for _, name := range []string{"a", "b", "c"} {
				w.settled(w.apply(named(name)))
			}
			service := &mesh.Resource{
				Key:  mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "us-east", Name: "lost"},
				Spec: &meshv1.MeshService{},
			}
			if _, err := part.Store.Commit(w.ctx, store.Txn{
				Ops: []store.Op{store.Put{Resource: service}},
			}); err != nil {
				t.Fatal(err)
			}
			w.eventually("the zone's service is at global", func() bool {
				_, ok := w.global.Replica().View().Get(service.Key)
				return ok
			})
			epoch := part.Store.Epoch()
			failOver(t, pair, overtake)
			w.poll("in another epoch", func() bool { return part.Store.Epoch() != epoch })

			w.settled(w.apply(named("d")))
			view := w.running["us-east"].Replica().View()
			for _, name := range []string{"kept", "a", "b", "c", "d"} {
				if _, ok := view.Get(named(name).Key); !ok {
					t.Errorf("%s is not in the zone", name)
				}
			}
			w.eventually("the zone's lost service is not at global", func() bool {
				_, ok := w.global.Replica().View().Get(service.Key)
				return !ok
			})
		})
	}
}

// failOver makes the standby take writes, of another process at first, and ends the primary.
func failOver(t *testing.T, pair *pgtest.Pair, overtake int) {
	t.Helper()
	pair.Promote(t)
	other := openPostgres(t, pair.Promoted())
	for range overtake {
		r := named("other")
		for _, op := range []store.Op{store.Put{Resource: r}, store.Delete{Key: r.Key}} {
			if _, err := other.Commit(t.Context(), store.Txn{Ops: []store.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	pair.StopPrimary()
}

func openPostgres(t *testing.T, url string) store.Store {
	t.Helper()
	st, err := postgres.Open(t.Context(), postgres.Config{URL: url, Sealer: storetest.PlainSealer{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func named(name string) *mesh.Resource {
	r := timeout(time.Second)
	r.Key.Name = name
	return r
}

// applyUntil applies once the store is reachable again.
func (w *world) applyUntil(r *mesh.Resource) (revision uint64) {
	w.t.Helper()
	w.poll("written", func() bool {
		res, err := w.g.Store.Commit(context.WithoutCancel(w.ctx), store.Txn{
			Author: "test",
			Ops:    []store.Op{store.Put{Resource: r}},
		})
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			w.t.Fatal(err)
		}
		revision = res.Revision
		return err == nil
	})
	return revision
}
