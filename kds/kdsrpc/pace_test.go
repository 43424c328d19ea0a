package kdsrpc

import (
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A burst of writes costs a zone a transaction per interval, not one per write, and its end arrives.
func TestBurstIsPaced(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	east := newNode(t)
	run(t, g.client("east", east, nil).Run)
	g.awaitZone(t, "east", "online", func(z ZoneState) bool { return z.State == Online })
	first := timeout("default", "", "a", 1)
	g.commit(t, store.Put{Resource: first})
	east.awaitKey(t, first.Key)

	const writes = 2000
	began, before := time.Now(), east.replica.View().Revision()
	var last *mesh.Resource
	for n := range writes {
		last = timeout("default", "", "a", int64(2+n))
		g.commit(t, store.Put{Resource: last})
	}
	want := mesh.Spec[*meshv1.MeshTimeout](last).String()
	east.await(t, "the last write", func(v replica.View) bool {
		r, ok := v.Get(first.Key)
		return ok && mesh.Spec[*meshv1.MeshTimeout](r).String() == want
	})
	most := 2 + uint64(time.Since(began)/minDeltaInterval)
	if got := east.replica.View().Revision() - before; got > most {
		t.Errorf("%d transactions for %d writes, at most %d in %v", got, writes, most, time.Since(began))
	}
}

// TestIntervalFollowsLoad: after a single change the pause is the shortest, and steady writers
// get the longest.
func TestIntervalFollowsLoad(t *testing.T) {
	t.Parallel()
	for changes, want := range map[int]time.Duration{
		0:    minDeltaInterval,
		1:    minDeltaInterval,
		5:    minDeltaInterval,
		10:   40 * time.Millisecond,
		1000: maxDeltaInterval,
	} {
		d := &kdsv1.Delta{
			Upserts: make([]*kdsv1.Item, changes/2),
			Deletes: make([]*meshv1.Key, changes-changes/2),
		}
		if got := deltaInterval(d); got != want {
			t.Errorf("after %d changes: %v, want %v", changes, got, want)
		}
	}
}
