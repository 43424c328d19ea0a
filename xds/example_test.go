package xds_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// What would a proxy have if the zone's store held these resources?
func ExampleStatic() {
	web := mesh.Key{
		Kind: mesh.KindDataplane,
		Mesh: "default",
		Zone: "east",
		Name: "web-1",
	}
	resources := []*mesh.Resource{
		{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}},
		{
			Key: mesh.Key{
				Kind: mesh.KindMeshService,
				Mesh: "default",
				Zone: "east",
				Name: "api",
			},
			Spec: &meshv1.MeshService{
				Ports: []*meshv1.ServicePort{{
					Port:        8080,
					Name:        "http",
					AppProtocol: "http",
				}},
			},
		},
		{
			Key: web,
			Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
				Address: "10.0.0.1",
				Outbound: []*meshv1.Dataplane_Outbound{{
					Port: 10001,
					BackendRef: &meshv1.Dataplane_OutboundBackendRef{
						Kind: "MeshService",
						Name: "api",
						Port: 8080,
					},
				}},
			}},
		},
	}
	var changes []store.Change
	for _, r := range resources {
		changes = append(changes, store.Change{
			Type:     store.ChangeSpec,
			Key:      r.Key,
			Resource: r,
		})
	}
	view := replica.View{}.With(1, changes)

	table, errs := xds.NewStatic("east", view).Table(web)
	for _, err := range errs {
		fmt.Println(err)
	}
	for _, t := range delta.Types {
		for r := range table.All(t) {
			fmt.Println(t, r.Name)
		}
	}
	// Output:
	// cluster kri_msvc_default_east__api_http
	// endpoint kri_msvc_default_east__api_http
	// listener kri_msvc_default_east__api_http
	// route kri_msvc_default_east__api_http
}
