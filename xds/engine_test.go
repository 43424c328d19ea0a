package xds

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
)

const testZone = "east"

// world drives an engine by hand: no goroutine, no store.
type world struct {
	t        testing.TB
	e        *Engine
	view     replica.View
	revision uint64
}

func newWorld(t testing.TB) *world { return &world{t: t, e: newEngine(testZone)} }

func (w *world) put(rs ...*mesh.Resource) {
	var changes []store.Change
	w.revision++
	for _, r := range rs {
		r.Revision = w.revision
		old, _ := w.view.Get(r.Key)
		changes = append(changes, store.Change{Type: store.ChangeSpec, Key: r.Key, Resource: r, Old: old})
	}
	w.step(changes)
}

func (w *world) remove(k mesh.Key) {
	w.revision++
	if old, ok := w.view.Get(k); ok {
		w.step([]store.Change{{Type: store.ChangeDelete, Key: k, Old: old}})
	}
}

func (w *world) status(k mesh.Key, s proto.Message) {
	w.revision++
	old, _ := w.view.Get(k)
	now := *old
	now.Status, now.StatusRevision = s, w.revision
	w.step([]store.Change{{Type: store.ChangeStatus, Key: k, Resource: &now, Old: old}})
}

func (w *world) step(changes []store.Change) {
	w.view = w.view.With(w.revision, changes)
	w.e.process(replica.Batch{View: w.view, Changes: changes})
}

// computes are the calls by query since the last call.
func (w *world) computes(f func()) map[string]uint64 {
	before := map[string]uint64{}
	for _, k := range w.e.g.kinds {
		before[k.name] = k.computes
	}
	f()
	out := map[string]uint64{}
	for _, k := range w.e.g.kinds {
		if n := k.computes - before[k.name]; n > 0 {
			out[k.name] = n
		}
	}
	return out
}

func (w *world) open(k mesh.Key) *feed {
	f := w.e.Open(k, 0).(*feed)
	w.e.processEvents()
	return f
}

func (w *world) table(k mesh.Key) *delta.Table {
	w.t.Helper()
	t, ok := w.e.Config(k)
	if !ok {
		w.t.Fatalf("%s has no table", k)
	}
	return t
}

func resource(kind mesh.Kind, zone, name string, spec proto.Message) *mesh.Resource {
	k := mesh.Key{Kind: kind, Mesh: "default", Zone: zone, Name: name}
	if info, _ := mesh.Lookup(kind); info.Scope == mesh.ScopeGlobal {
		k.Mesh = ""
	}
	return &mesh.Resource{Key: k, Spec: spec}
}

func testMesh(mode string) *mesh.Resource {
	spec := &meshv1.Mesh{}
	if mode != "" {
		spec.Mtls = &meshv1.Mesh_Mtls{EnabledBackend: "ca-1", Backends: []*meshv1.Mesh_Backend{{Name: "ca-1", Type: "builtin", Mode: mode}}}
	}
	return resource(mesh.KindMesh, "", "default", spec)
}

func testService(zone, name string, port uint32) *mesh.Resource {
	return resource(mesh.KindMeshService, zone, name, &meshv1.MeshService{
		Selector:   &meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: name}},
		Ports:      []*meshv1.ServicePort{{Port: port, Name: "http", AppProtocol: "http", TargetPort: &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: int64(port)}}}},
		Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: name}},
		State:      "Available",
	})
}

// testDataplane is an instance of service that calls the services named.
func testDataplane(name, address, service string, port uint32, calls ...string) *mesh.Resource {
	n := &meshv1.Dataplane_Networking{Address: address, Inbound: []*meshv1.Dataplane_Inbound{{Port: port, Name: "http", ServicePort: port + 1,
		Protocol: "http", Tags: map[string]string{mesh.TagService: service}}}}
	for i, c := range calls {
		n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{Port: uint32(10000 + i),
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: c, Port: 8080}})
	}
	return resource(mesh.KindDataplane, testZone, name, &meshv1.Dataplane{Networking: n})
}

func TestSmoke(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh("STRICT"), testService(testZone, "api", 8080), testDataplane("api-1", "10.0.0.1", "api", 8080),
		testDataplane("web-1", "10.0.0.2", "web", 8080, "api"))
	f := w.open(resource(mesh.KindDataplane, testZone, "web-1", nil).Key)
	table := w.table(f.key)
	for _, typ := range delta.Types {
		for r := range table.All(typ) {
			fmt.Println(typ, r.Name, len(r.Body), r.Version, r.Cause)
		}
	}
	fmt.Println(w.e.Progress())
	fmt.Println(w.computes(func() { w.put(testDataplane("api-2", "10.0.0.3", "api", 8080)) }))
}
