package inprocess

import (
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// TestDeletedMeshTakesAlongWhatZonesOwn: what a zone owns in a mesh goes with the mesh, its proxies too, and
// nothing of it is in force when a mesh of that name is created again.
func TestDeletedMeshTakesAlongWhatZonesOwn(t *testing.T) {
	w := newWorld(t, "us-east")
	w.sidecar("us-east", "east", "web", "127.0.0.1")
	east := w.running["us-east"].Replica()
	own := named("own")
	own.Key.Zone = "us-east"
	if _, err := w.zones["us-east"].Store.Commit(w.ctx, store.Txn{
		Ops: []store.Op{store.Put{Resource: own}},
	}); err != nil {
		t.Fatal(err)
	}
	service := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "us-east", Name: "web"}
	w.eventually("the service is at global", func() bool {
		_, ok := w.global.Replica().View().Get(service)
		return ok
	})
	w.poll("with a proxy online", func() bool {
		return w.running["us-east"].Status(w.ctx).GetProxies().GetOnline() == 1
	})

	// As a delete of the mesh does that reached global while the zone could not be asked for its proxies.
	var ops []store.Op
	for r := range w.global.Replica().View().All() {
		if r.Key.Zone == "" && (r.Key.Mesh == "default" || r.Key.Kind == mesh.KindMesh) {
			ops = append(ops, store.Delete{Key: r.Key})
		}
	}
	if _, err := w.g.Store.Commit(w.ctx, store.Txn{Ops: ops}); err != nil {
		t.Fatal(err)
	}
	left := func() (keys []mesh.Key) {
		for r := range east.View().All() {
			if r.Key.Mesh == "default" {
				keys = append(keys, r.Key)
			}
		}
		return keys
	}
	w.poll("without anything of the mesh", func() bool { return len(left()) == 0 })
	w.poll("without proxies", func() bool {
		return w.running["us-east"].Status(w.ctx).GetProxies().GetTotal() == 0
	})
	w.eventually("the service is gone at global", func() bool {
		_, ok := w.global.Replica().View().Get(service)
		return !ok
	})

	w.settled(w.apply(&mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: "default"},
		Spec: &meshv1.Mesh{},
	}, timeout(time.Second)))
	if _, ok := east.View().Get(own.Key); ok {
		t.Error("a policy of the former mesh is in force in the new one")
	}
}
