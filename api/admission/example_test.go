package admission_test

import (
	"context"
	"fmt"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A document goes through the pipeline at a standalone zone, which completes its labels.
func Example() {
	a := admission.New(admission.Config{Zone: "east"})
	draft, err := a.Prepare(admission.Request{Resource: &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Name: "web"},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "192.0.2.1",
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port: 80,
				Tags: map[string]string{"kuma.io/service": "web"},
			}},
		}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	m := &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}}
	admitted, err := draft.Admit(context.Background(), admission.State{View: replica.NewView(1, m)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(admitted.Resource.Key.Zone, admitted.Resource.Labels[mesh.LabelOrigin], admitted.Created)
	// Output: east zone true
}
