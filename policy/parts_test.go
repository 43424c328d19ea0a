package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// TestChangedPartsSeeEveryChange: whatever a change of a policy does to a destination, the
// destination has read a part that changed; and what changes for one service alone concerns no
// other.
func TestChangedPartsSeeEveryChange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	version := func() *mesh.Resource {
		text := "type: MeshTimeout\nmesh: default\nname: p\nspec:\n  targetRef: " +
			pick("{kind: Mesh}", "{kind: Dataplane, labels: {app: a}}") + "\n  to:\n"
		for range 1 + r.IntN(3) {
			text += fmt.Sprintf("  - {targetRef: %s, default: {connectionTimeout: %ds}}\n",
				pick("{kind: Mesh}", "{kind: MeshService, name: a}", "{kind: MeshService, name: b}",
					"{kind: MeshService, name: a, sectionName: http}",
					"{kind: MeshService, labels: {team: x}}", "{kind: MeshService, name: a_ns_svc_80}",
					"{kind: MeshMultiZoneService, name: a}"), 1+r.IntN(2))
		}
		docs, err := codec.Decode([]byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		return docs[0].Resource
	}
	destinations := []Destination{
		{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "z", Name: "a"}, Section: "http"},
		{
			Key:     mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "z", Name: "b"},
			Labels:  map[string]string{"team": "x"},
			Section: "http",
		},
		{
			Key: mesh.Key{
				Kind:      mesh.KindMeshService,
				Mesh:      "default",
				Zone:      "z",
				Namespace: "ns",
				Name:      "a",
			},
			Section: "80",
		},
		{Key: mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "a"}, Section: "http"},
	}
	of := func(p *mesh.Resource, d Destination) string {
		if p == nil {
			return ""
		}
		e := ForDestination([]*mesh.Resource{p}, d)
		var b strings.Builder
		if e.Conf != nil {
			fmt.Fprint(&b, e.Conf.(*meshv1.MeshTimeout_Conf).GetConnectionTimeout().AsDuration())
		}
		fmt.Fprint(&b, e.Origins, e.Fields)
		return b.String()
	}
	spared := 0
	for range 5000 {
		old, now := version(), version()
		switch r.IntN(20) {
		case 0:
			old = nil
		case 1:
			now = nil
		case 2:
			now.Labels = map[string]string{mesh.LabelEffect: mesh.EffectShadow}
		}
		changed := ChangedParts(old, now)
		if old != nil && now != nil && proto.Equal(old.Spec, now.Spec) && len(now.Labels) == 0 &&
			len(changed) > 0 {
			t.Fatalf("equal versions differ in %v", changed)
		}
		for _, d := range destinations {
			seen := slices.Contains(changed, Part{}) || slices.Contains(changed, PartOf(d.Key))
			if before, after := of(old, d), of(now, d); before != after && !seen {
				t.Fatalf("%s goes from %s to %s, but only %v changed", d.Key, before, after, changed)
			}
			if !seen && len(changed) > 0 {
				spared++
			}
		}
	}
	if spared == 0 {
		t.Error("every change concerned every destination: the test saw too little")
	}
}
