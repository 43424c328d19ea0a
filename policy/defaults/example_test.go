package defaults_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy/defaults"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func ExamplePolicies() {
	m := &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: "shop"},
		Spec: &meshv1.Mesh{SkipCreatingInitialPolicies: []string{"MeshTimeout"}},
	}
	for _, r := range defaults.Policies(m) {
		fmt.Println(r.Key.Kind, r.Key.Name)
	}
	// Output:
	// MeshCircuitBreaker mesh-circuit-breaker-all-shop
	// MeshRetry mesh-retry-all-shop
}
