package policy

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
)

func TestSettingsSayWhoWonAndWhy(t *testing.T) {
	backend := Destination{
		Key:     mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "backend"},
		Section: "http",
	}
	timeout := func(name, target, to, request string, more ...string) string {
		return "type: MeshTimeout\nmesh: default\nname: " + name + "\n" + strings.Join(more, "\n") +
			"\nspec:\n  targetRef: {kind: " + target + "}\n  to:\n  - targetRef: {" + to +
			"}\n    default: {http: {requestTimeout: " + request + "}}\n"
	}
	const toMesh, toService, toPort = "kind: Mesh", "kind: MeshService, " +
		"name: backend", "kind: MeshService, " +
		"name: backend, sectionName: http"
	for _, c := range []struct{ name, a, b, winner, reason string }{
		{"name", timeout("aaa", "Mesh", toMesh, "1s"), timeout("zzz", "Mesh", toMesh, "2s"), "aaa",
			"smaller name"},
		{"target", timeout("aaa", "Mesh", toMesh, "1s"), timeout("zzz", "Dataplane", toMesh, "2s"), "zzz",
			"for a Dataplane ranks above one for a Mesh"},
		{"name of a proxy", timeout("aaa", "Dataplane, labels: {app: web}", toMesh, "1s"),
			timeout("zzz", "Dataplane, name: web", toMesh, "2s"), "zzz", "by name ranks above one by labels"},
		{"entry", timeout("aaa", "Mesh", toMesh, "1s"), timeout("zzz", "Mesh", toService, "2s"), "zzz",
			"about a MeshService ranks above one about a Mesh"},
		{"port", timeout("aaa", "Mesh", toService, "1s"), timeout("zzz", "Mesh", toPort, "2s"), "zzz",
			"about one port"},
		{"default", timeout("aaa", "Mesh", toMesh, "1s", "labels: {kuma.io/managed-by: meridian-defaults}"),
			timeout("zzz", "Mesh", toMesh, "2s"), "zzz", "default of the system"},
		{"origin", timeout("aaa", "Mesh", toMesh, "1s"),
			timeout("zzz", "Mesh", toMesh, "2s", "labels: {kuma.io/origin: zone}"), "zzz", "of the zone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs, err := codec.Decode([]byte(c.a + "---\n" + c.b))
			if err != nil {
				t.Fatal(err)
			}
			list := []*mesh.Resource{docs[0].Resource, docs[1].Resource}
			if Compare(HeadOf(list[0]), HeadOf(list[1])) > 0 {
				list[0], list[1] = list[1], list[0]
			}
			got := DestinationSettings(list, backend)
			if len(got) != 1 || got[0].Path != "http.requestTimeout" || got[0].Origin.Key.Name != c.winner ||
				len(got[0].Overruled) != 1 ||
				!strings.Contains(got[0].Overruled[0].Reason, c.reason) {
				t.Errorf("got %+v, want %s to win: %s", got, c.winner, c.reason)
			}
		})
	}
	t.Run("within one policy", func(t *testing.T) {
		docs, err := codec.Decode([]byte(timeout("aaa", "Mesh", toMesh, "1s") +
			"  - targetRef: {kind: Mesh}\n    default: {http: {requestTimeout: 2s}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := DestinationSettings([]*mesh.Resource{docs[0].Resource}, backend)
		if len(got) != 1 || got[0].Origin.Rule != 1 ||
			!strings.Contains(got[0].Overruled[0].Reason, "later entry") {
			t.Errorf("got %+v", got)
		}
	})
}
