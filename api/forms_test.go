package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/api"
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

// TestNamespacesAreOneIdentity: a resource of a namespace is found, replaced and deleted by its
// name over each surface, as long as no other has it.
func TestNamespacesAreOneIdentity(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "east" })
	const path = "/meshes/default/meshtimeouts/slow"
	inNamespace := func(ns string) string {
		return "apiVersion: kuma.io/v1alpha1\nkind: MeshTimeout\nmetadata: {name: slow, namespace: " + ns +
			"}\nspec: " +
			"{to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1m}}]}\n"
	}
	p.want(p.do("PUT", path, inNamespace("demo")), 201)
	p.want(p.do("GET", path, ""), 200, `"name": "slow"`)
	p.want(p.do("PUT", path, inNamespace("demo")), 200)
	p.want(p.do("DELETE", path, ""), 200)
	p.want(p.do("GET", path, ""), 404)

	p.want(p.do("PUT", path, inNamespace("demo")), 201)
	p.want(p.do("PUT", path, inNamespace("other")), 201)
	p.want(p.do("GET", path, ""), 409, "several namespaces have a MeshTimeout of that name", "demo/slow")
	p.want(p.do("DELETE", path, ""), 409, "several namespaces have a MeshTimeout of that name")
	p.want(p.do("GET", path+"?namespace=other", ""), 200)
	p.want(p.do("DELETE", path+"?namespace=other", ""), 200)
	p.want(p.do("GET", path, ""), 200)
}

// TestDefaultsOfALoneZone: a zone without global writes and deletes the defaults of its meshes.
func TestDefaultsOfALoneZone(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "here" })
	p.seed(&mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t1"},
		Labels: map[string]string{mesh.LabelOrigin: mesh.OriginGlobal, mesh.LabelMesh: "default"},
		Spec:   documents(t, "", fasterText)[0].Spec,
	})
	const path = "/meshes/default/meshtimeouts/t1"
	p.want(p.do("PUT", path, p.do("GET", path, "").text), 200)
	if n := len(slices.Collect(p.replica.View().List(mesh.KindMeshTimeout, "default"))); n != 1 {
		t.Errorf("%d resources", n)
	}
	p.want(p.do("DELETE", path, ""), 200)
}

// TestDataplanesOfAClusterAreKnownByName: a document with a namespace is the Dataplane that its
// proxy joins as.
func TestDataplanesOfAClusterAreKnownByName(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "here" })
	p.want(p.do("PUT", "/meshes/default/dataplanes/web", "apiVersion: kuma.io/v1alpha1\nkind: Dataplane\n"+
		"mesh: default\nmetadata: {name: web, namespace: demo}\nspec: {networking: {address: "+
		"192.0.2.1, inbound: "+
		"[{port: 80, tags: {kuma.io/service: web}}]}}\n"), 201, `metadata.namespace: \"demo\" is left out`)
	key := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "here", Name: "web"}
	if _, ok := p.replica.View().Get(key); !ok {
		t.Errorf("there is no %s", key)
	}
}

// TestPagesLeaveNothingOut: while others delete what was read, a reader that follows next meets the rest.
func TestPagesLeaveNothingOut(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "here" })
	for i := range 9 {
		name := fmt.Sprintf("t%d", i)
		p.want(p.do("PUT", "/meshes/default/meshtimeouts/"+name, timeoutJSON(name, "")), 201)
	}
	var met []string
	url := "/meshes/default/meshtimeouts?size=2&name=t"
	for range 9 {
		a := p.want(p.do("GET", url, ""), 200)
		items, _ := a.json["items"].([]any)
		for _, item := range items {
			fields, _ := item.(map[string]any)
			name, _ := fields["name"].(string)
			met = append(met, name)
			p.want(p.do("DELETE", "/meshes/default/meshtimeouts/"+name, ""), 200)
		}
		next, more := a.json["next"].(string)
		if !more {
			break
		}
		_, query, _ := strings.Cut(next, "?")
		url = "/meshes/default/meshtimeouts?" + query
	}
	if len(met) != 9 {
		t.Errorf("met %v", met)
	}
	p.want(p.do("GET", "/meshes/default/meshtimeouts?after=x", ""), 400, "must be as next has it")
}

// TestDeleteInAMeshThatIsGone: what is left of a mesh can be deleted without the mesh.
func TestDeleteInAMeshThatIsGone(t *testing.T) {
	t.Parallel()

	p := newPlane(t, func(c *api.Config) { c.Zone = "east" })
	p.seed(timeoutResource("left", "east"))
	p.want(p.do("DELETE", "/meshes/default/meshtimeouts/left", ""), 200)
	p.want(p.do("DELETE", "/meshes/default/meshtimeouts/left", ""), 404, "default")
}
