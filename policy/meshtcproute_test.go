package policy

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func TestTCPRoute(t *testing.T) {
	to := func(section string, backends ...string) *meshv1.MeshTCPRoute_To {
		out := &meshv1.MeshTCPRoute_To{TargetRef: &meshv1.TargetRef{
			Kind:        "MeshService",
			Name:        "db",
			SectionName: section,
		}}
		conf := &meshv1.MeshTCPRoute_Conf{}
		for _, b := range backends {
			conf.BackendRefs = append(conf.BackendRefs, &meshv1.BackendRef{Kind: "MeshService", Name: b})
		}
		if len(backends) > 0 {
			out.Rules = []*meshv1.MeshTCPRoute_Rule{{Default: conf}}
		}
		return out
	}
	route := func(name string, entries ...*meshv1.MeshTCPRoute_To) *mesh.Resource {
		return &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindMeshTCPRoute, Mesh: "default", Name: name},
			Spec: &meshv1.MeshTCPRoute{To: entries},
		}
	}
	db := Destination{
		Key:     mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "db"},
		Section: "pg",
	}
	// Ascending: the smaller name ranks higher and comes last.
	for _, tc := range []struct {
		name     string
		policies []*mesh.Resource
		found    bool
		want     []string
		from     string
		rule     int
	}{
		{name: "none"},
		{name: "about another port", policies: []*mesh.Resource{route("a", to("other", "x"))}},
		{"one", []*mesh.Resource{route("a", to("", "x", "y"))}, true, []string{"x", "y"}, "a", 0},
		{"the list of the higher replaces",
			[]*mesh.Resource{route("b", to("", "x", "y")), route("a", to("", "z"))}, true, []string{"z"}, "a",
			0},
		{"a section outranks a name", []*mesh.Resource{route("b", to("pg", "x")), route("a", to("", "z"))},
			true, []string{"x"}, "b", 0},
		{"the later entry of one policy", []*mesh.Resource{route("a", to("", "x"), to("", "z"))}, true,
			[]string{"z"}, "a", 1},
		{"an entry without rules means the destination itself",
			[]*mesh.Resource{route("b", to("", "x")), route("a", to(""))}, true, nil, "a", 0},
	} {
		got, ok := TCPRoute(tc.policies, db)
		if ok != tc.found {
			t.Errorf("%s: found %t", tc.name, ok)
			continue
		}
		var names []string
		for _, b := range got.BackendRefs {
			names = append(names, b.GetName())
		}
		if len(names) != len(tc.want) || got.Origin.Key.Name != tc.from || got.Origin.Rule != tc.rule {
			t.Errorf("%s: %v from %+v", tc.name, names, got.Origin)
			continue
		}
		for i := range names {
			if names[i] != tc.want[i] {
				t.Errorf("%s: %v, want %v", tc.name, names, tc.want)
			}
		}
		if ok && got.Policy.Key != got.Origin.Key {
			t.Errorf("%s: policy %s, origin %s", tc.name, got.Policy.Key, got.Origin.Key)
		}
	}
}
