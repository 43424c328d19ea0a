package policy

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// TestAimsHoldEverythingThatResolves: a reference that resolves to a destination must be among the aims of its policy, whatever
// the zones, namespaces, labels and spellings.
func TestAimsHoldEverythingThatResolves(t *testing.T) {
	var refs []*meshv1.TargetRef
	for _, kind := range []string{"", "Mesh", "MeshService", "MeshMultiZoneService", "MeshHTTPRoute"} {
		for _, name := range []string{"", "backend", "backend_shop_svc", "backend_shop_svc_main", "a_svc", "other"} {
			for _, labels := range []map[string]string{nil, {"team": "a"}} {
				for _, section := range []string{"", "main"} {
					refs = append(refs, &meshv1.TargetRef{Kind: kind, Name: name, Labels: labels, SectionName: section})
				}
			}
		}
	}
	var dests []Destination
	for _, kind := range []mesh.Kind{mesh.KindMeshService, mesh.KindMeshMultiZoneService, mesh.KindMeshHTTPRoute} {
		for _, name := range []string{"backend", "backend_shop_svc", "a_svc", "other"} {
			for _, namespace := range []string{"", "shop"} {
				dests = append(dests, Destination{Key: mesh.Key{Kind: kind, Mesh: "default", Zone: "east", Namespace: namespace, Name: name},
					Labels: map[string]string{"team": "a"}, Section: "main"})
			}
		}
	}
	resolved, apart := 0, 0
	for _, ref := range refs {
		p := &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "p"},
			Spec: &meshv1.MeshTimeout{To: []*meshv1.MeshTimeout_To{{TargetRef: ref}}}}
		aims := AimsOf(p)
		for _, d := range dests {
			means := ResolvesTo(ref, p.Key, d)
			switch {
			case means && !aims.Mean(d.Key):
				t.Errorf("%v resolves to %v, which is not among its aims %+v", ref, d.Key, aims)
			case means:
				resolved++
			case !aims.Mean(d.Key):
				apart++
			}
		}
	}
	if resolved == 0 || apart == 0 {
		t.Errorf("%d pairs resolved, %d were told apart: the test says nothing", resolved, apart)
	}
}
