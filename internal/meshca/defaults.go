package meshca

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Defaults are the default policies of a new Mesh (traffic-policies 1.13), of the kinds that there are.
// A standalone zone owns its meshes and their defaults, under the keys that global would use.
func Defaults(m *mesh.Resource) []store.Op {
	skip := mesh.Spec[*meshv1.Mesh](m).GetSkipCreatingInitialPolicies()
	if slices.Contains(skip, "*") || slices.Contains(skip, string(mesh.KindMeshTimeout)) {
		return nil
	}
	name := m.Key.Name
	return []store.Op{
		defaultPolicy(mesh.KindMeshTimeout, name, "mesh-timeout-all-"+name, &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh", ProxyTypes: []string{"Sidecar"}},
			From: []*meshv1.MeshTimeout_From{{TargetRef: all(), Default: &meshv1.MeshTimeout_Conf{
				ConnectionTimeout: d(10 * time.Second), IdleTimeout: d(2 * time.Hour),
				Http: &meshv1.MeshTimeout_Http{RequestTimeout: d(0), StreamIdleTimeout: d(time.Hour), MaxStreamDuration: d(0)},
			}}},
			To: []*meshv1.MeshTimeout_To{{TargetRef: all(), Default: &meshv1.MeshTimeout_Conf{
				ConnectionTimeout: d(5 * time.Second), IdleTimeout: d(time.Hour),
				Http: &meshv1.MeshTimeout_Http{RequestTimeout: d(15 * time.Second), StreamIdleTimeout: d(30 * time.Minute)},
			}}},
		}),
		defaultPolicy(mesh.KindMeshTimeout, name, "mesh-gateways-timeout-all-"+name, &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh", ProxyTypes: []string{"Gateway"}},
			From: []*meshv1.MeshTimeout_From{{TargetRef: all(), Default: &meshv1.MeshTimeout_Conf{
				IdleTimeout: d(5 * time.Minute),
				Http:        &meshv1.MeshTimeout_Http{StreamIdleTimeout: d(5 * time.Second), RequestHeadersTimeout: d(500 * time.Millisecond)},
			}}},
			To: []*meshv1.MeshTimeout_To{{TargetRef: all(), Default: &meshv1.MeshTimeout_Conf{
				IdleTimeout: d(time.Hour), Http: &meshv1.MeshTimeout_Http{StreamIdleTimeout: d(5 * time.Second)},
			}}},
		}),
	}
}

func all() *meshv1.TargetRef { return &meshv1.TargetRef{Kind: "Mesh"} }

func d(v time.Duration) *durationpb.Duration { return durationpb.New(v) }

func defaultPolicy(kind mesh.Kind, meshName, name string, spec *meshv1.MeshTimeout) store.Op {
	return store.Put{Resource: &mesh.Resource{
		Key:    mesh.Key{Kind: kind, Mesh: meshName, Name: name},
		Labels: map[string]string{mesh.LabelMesh: meshName, mesh.LabelOrigin: mesh.OriginGlobal, mesh.LabelManagedBy: mesh.ManagedByDefaults},
		Spec:   spec,
	}}
}

// EnsureDefaultMesh is the transaction that creates the mesh "default" in a store that has no such mesh; extra are
// operations that come with it, such as its token key.
func EnsureDefaultMesh(extra ...store.Op) store.Txn {
	m := &mesh.Resource{
		// No origin label: a Mesh that a person writes has none either, and an update may not drop one.
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh},
		Spec: &meshv1.Mesh{},
	}
	return store.Txn{
		Actor:  "system:defaults",
		Checks: []store.Check{store.KeyAt{Key: m.Key}},
		Ops:    append(append([]store.Op{store.Put{Resource: m}}, Defaults(m)...), extra...),
	}
}
