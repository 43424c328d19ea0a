package trial_test

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/trial"
)

func ExamplePolicy() {
	r := &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshHealthCheck, Mesh: "default", Name: "checks"},
		Spec: &meshv1.MeshHealthCheck{To: []*meshv1.MeshHealthCheck_To{{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
			Default: &meshv1.MeshHealthCheck_Conf{
				Timeout: durationpb.New(-time.Second),
				Tcp:     &meshv1.MeshHealthCheck_Tcp{},
			},
		}}},
	}
	for _, v := range trial.Policy(r) {
		fmt.Printf("%s: %s\n", v.Field, v.Reason)
	}
	// Output: spec.to[0]: Envoy would reject it: HealthCheck.Timeout: value must be greater than 0s
}
