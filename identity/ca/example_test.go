package ca_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Of a mesh's backends the enabled one signs; without it mTLS is off.
func ExampleBackend() {
	spec := &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{Backends: []*meshv1.Mesh_Backend{
		{Name: "old", Type: "provided"},
		{Name: "new", Type: "builtin"},
	}}}
	m := &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: spec}
	fmt.Println(ca.Backend(m) == nil)

	spec.Mtls.EnabledBackend = "new"
	fmt.Println(ca.Backend(m).GetType())
	// Output:
	// true
	// builtin
}
