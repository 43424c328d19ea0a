package defaults

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// The defaults are resources that users could have written: they validate and survive the codec.
func TestPolicies(t *testing.T) {
	t.Parallel()
	of := func(skip ...string) []*mesh.Resource {
		return Policies(&mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindMesh, Name: "shop"},
			Spec: &meshv1.Mesh{SkipCreatingInitialPolicies: skip},
		})
	}

	var got strings.Builder
	for _, r := range of() {
		if _, err := validate.Resource(r); err != nil {
			t.Errorf("%v: %v", r.Key, err)
		}
		if r.Key.Mesh != "shop" || r.Labels[mesh.LabelManagedBy] != mesh.ManagedByDefaults {
			t.Errorf("%v with %v", r.Key, r.Labels)
		}
		text, err := codec.EncodeYAML(r)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString("---\n" + string(text))
	}
	want, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("differs from testdata/shop.yaml (-want +got)\n%s", diff)
	}

	if all := of("*"); len(all) != 0 {
		t.Errorf("%d in spite of *", len(all))
	}
	rest := of("MeshTimeout", "MeshRetry")
	if len(rest) != 1 || !slices.ContainsFunc(rest,
		func(r *mesh.Resource) bool { return r.Key.Kind == mesh.KindMeshCircuitBreaker }) {
		t.Errorf("without timeouts and retries: %v", rest)
	}
}
