package destination_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func ExampleLookup() {
	info, _ := destination.Lookup(mesh.KindMeshService)
	k := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "web"}
	fmt.Println(info.SNI(k, "http"), info.Local(k, "east"), info.Remote(k, "west"))
	// Output: sni.msvc.default.east.web.http true true
}

// TestEveryRowAnswers keeps a new row from leaving out what all users of the table call.
func TestEveryRowAnswers(t *testing.T) {
	t.Parallel()

	for i, info := range destination.Kinds {
		kind, ok := mesh.Lookup(info.Kind)
		if !ok {
			t.Fatalf("%s has no row in mesh.Kinds", info.Kind)
		}
		r := &mesh.Resource{Key: mesh.Key{Kind: info.Kind, Mesh: "m", Name: "a"}, Spec: kind.NewSpec()}

		if got := info.Ports(r); len(got) != 0 {
			t.Errorf("%s: an empty spec has ports %v", info.Kind, got)
		}
		if got := info.SANs(r); len(got) != 0 {
			t.Errorf("%s: an empty spec has SANs %v", info.Kind, got)
		}
		if got, want := len(info.Values(r)), len(info.Columns); got != want {
			t.Errorf("%s: %d values for %d columns", info.Kind, got, want)
		}
		if combined := info.Source == destination.Combined; combined != (info.Members != nil) {
			t.Errorf("%s: Members is set: %t, Combined: %t", info.Kind, !combined, combined)
		}
		for _, other := range destination.Kinds[:i] {
			if other.Prefix.Overlaps(info.Prefix) {
				t.Errorf("%s and %s share virtual IPs", other.Kind, info.Kind)
			}
			if other.SNI(r.Key, "p") == info.SNI(r.Key, "p") {
				t.Errorf("%s and %s share server names", other.Kind, info.Kind)
			}
		}
	}
	if destination.Is(mesh.KindMeshRetry) {
		t.Error("a policy is not a destination")
	}
}

func TestPortsFillWhatTheSpecLeavesOut(t *testing.T) {
	t.Parallel()

	named := &meshv1.IntOrString{Value: &meshv1.IntOrString_StringValue{StringValue: "main"}}
	got := destination.Ports(&mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshService},
		Spec: &meshv1.MeshService{Ports: []*meshv1.ServicePort{
			{Port: 80},
			{Port: 81, Name: "web", AppProtocol: "http", TargetPort: named},
		}},
	})
	want := []destination.Port{
		{Number: 80, Name: "80", Protocol: "tcp", TargetNumber: 80},
		{Number: 81, Name: "web", Protocol: "http", TargetNumber: 81, TargetName: "main"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestMembersOfOtherMeshesAreLeftOut(t *testing.T) {
	t.Parallel()

	info, _ := destination.Lookup(mesh.KindMeshMultiZoneService)
	r := &mesh.Resource{
		Key:  mesh.Key{Kind: info.Kind, Mesh: "m", Name: "all"},
		Spec: &meshv1.MeshMultiZoneService{},
		Status: &meshv1.MeshMultiZoneServiceStatus{
			MeshServices: []*meshv1.MeshMultiZoneServiceStatus_Member{
				{
					Name:       "a",
					Zone:       "east",
					Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "a"}},
				},
				{Name: "b", Zone: "east", Mesh: "other"},
			},
		},
	}
	if got := info.Members(r); len(got) != 1 || got[0].Key.Name != "a" {
		t.Errorf("got members %+v, want a alone", got)
	}
	if got := info.SANs(r); !slices.Equal(got, []string{"spiffe://m/a"}) {
		t.Errorf("got SANs %v", got)
	}
}
