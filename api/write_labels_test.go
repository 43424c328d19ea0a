package api_test

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestLabelsOfAnotherClusterAreLeftOut: a policy that was read from a cluster can be written at global.
func TestLabelsOfAnotherClusterAreLeftOut(t *testing.T) {
	t.Parallel()

	g := withMesh(t, global)
	const path = "/meshes/default/meshtimeouts/t1"
	g.want(
		g.do("PUT", path, timeoutJSON("t1",
			`"labels":{"kuma.io/zone":"east","kuma.io/policy-role":"producer","team":"a"},`)),
		201,
		`labels[\"kuma.io/zone\"]: \"east\" is left out`,
		`labels[\"kuma.io/policy-role\"]: \"producer\" is left out`,
	)
	got, ok := g.replica.View().Get(mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t1"})
	if !ok || got.Labels[mesh.LabelZone] != "" || got.Labels[mesh.LabelPolicyRole] != "" ||
		got.Labels["team"] != "a" {
		t.Errorf("%v", got)
	}
}
