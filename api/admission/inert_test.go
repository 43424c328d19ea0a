package admission

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/store/replica"
)

func read(t *testing.T, text string) []*mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out []*mesh.Resource
	for _, d := range docs {
		out = append(out, d.Resource)
	}
	return out
}

// TestInert: each reference or condition that cannot act is named with its field, and nothing else is.
func TestInert(t *testing.T) {
	t.Parallel()

	const services = `
type: Mesh
name: default
---
type: Mesh
name: secure
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}
---
type: MeshService
mesh: default
name: backend
labels: {app: backend}
spec: {selector: {dataplaneTags: {a: b}}, ports: [{name: main, port: 8080, appProtocol: http}, {port: 8181}]}
---
type: MeshService
mesh: default
name: db
spec: {selector: {dataplaneTags: {a: b}}, ports: [{port: 9000, appProtocol: tcp}]}
`
	view := replica.NewView(7, read(t, services)...)
	timeout := func(target string) string {
		return "type: MeshTimeout\nmesh: default\nname: p\nspec: {to: [{targetRef: {" + target +
			"}, default: {http: {requestTimeout: 1s}}}]}"
	}
	route := func(target, backends string) string {
		return "type: MeshHTTPRoute\nmesh: default\nname: p\nspec: {to: [{targetRef: {" + target +
			"}, rules: [{matches: " +
			"[{path: {type: PathPrefix, value: /}}], default: {backendRefs: [" + backends + "]}}]}]}"
	}
	limit := func(meshName, id string) string {
		return "type: MeshRateLimit\nmesh: " + meshName +
			"\nname: p\nspec: {targetRef: {kind: Dataplane}, rules: " +
			"[{matches: [{spiffeID: {type: Exact, value: '" + id +
			"'}}], default: {local: {http: {requestRate: " +
			"{num: 1, interval: 10s}}}}}]}"
	}
	const noEffect = " yet, so that the entry has no effect"
	const backend = "spec.to[0].rules[0].default.backendRefs[0]"
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"there", timeout("kind: MeshService, name: backend"), nil},
		{"mesh", timeout("kind: Mesh"), nil},
		{"a slip", timeout("kind: MeshService, name: backnd"),
			[]string{"spec.to[0].targetRef.name: there is no MeshService backnd" + noEffect +
				"; did you mean backend?"}},
		{"another kind", timeout("kind: MeshMultiZoneService, name: backend"),
			[]string{"spec.to[0].targetRef.name: there is no MeshMultiZoneService backend" + noEffect}},
		{"a route", timeout("kind: MeshHTTPRoute, name: gone"),
			[]string{"spec.to[0].targetRef.name: there is no MeshHTTPRoute gone" + noEffect}},
		{"labels", timeout("kind: MeshService, labels: {app: nope}"),
			[]string{"spec.to[0].targetRef.labels: no MeshService has these labels" + noEffect}},
		{"labels that fit", timeout("kind: MeshService, labels: {app: backend}"), nil},
		{"section", timeout("kind: MeshService, name: backend, sectionName: mian"),
			[]string{"spec.to[0].targetRef.sectionName: no port is called mian: there is main (8080), 8181"}},
		{"number of a port with a name", timeout(`kind: MeshService, name: backend, sectionName: "8080"`),
			[]string{"spec.to[0].targetRef.sectionName: no port is called 8080: there is main (8080), 8181"}},
		{"number of a port without", timeout(`kind: MeshService, name: backend, sectionName: "8181"`), nil},
		{"route of HTTP for TCP",
			route("kind: MeshService, name: db", "{kind: MeshService, name: backend, port: 8080}"),
			[]string{"spec.to[0].targetRef: has only ports that are not HTTP (9000), for which a " +
				"MeshHTTPRoute has no " +
				"effect: use a MeshTCPRoute, or set appProtocol"}},
		{"backend", route("kind: MeshService, name: backend", "{kind: MeshService, name: gone, port: 1}"),
			[]string{backend +
				".name: there is no MeshService gone: its share of the traffic fails until there is one"}},
		{"port of a backend",
			route("kind: MeshService, name: backend", "{kind: MeshService, name: db, port: 1}"),
			[]string{backend + ".port: there is no port 1: there is 9000"}},
		{"kind that is not there yet", timeout("kind: MeshExternalService, name: partner"),
			[]string{"spec.to[0].targetRef.kind: MeshExternalService is not supported yet, so that the " +
				"entry has no effect"}},
		{"backend of such a kind",
			route("kind: MeshService, name: backend", "{kind: MeshExternalService, name: partner, port: 1}"),
			[]string{backend + ".kind: MeshExternalService is not supported yet: its share of the traffic " +
				"fails"}},
		{"identity without mTLS", limit("default", "spiffe://default/web"),
			[]string{"spec.rules[0].matches[0].spiffeID: no caller has an identity: mesh default " +
				"has no mTLS"}},
		{"identity", limit("secure", "spiffe://secure/web"), nil},
		{"trust domain", limit("secure", "spiffe://other.example/web"),
			[]string{"spec.rules[0].matches[0].spiffeID.value: no caller is of the trust domain " +
				"other.example: that of " +
				"mesh secure is secure"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, Inert(view, read(t, tc.text)[0])); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestWhatEnvoyWouldRejectIsRefused: what the trial of a policy finds is a violation of the write.
func TestWhatEnvoyWouldRejectIsRefused(t *testing.T) {
	t.Parallel()

	a := New(Config{Zone: "here"})
	r := read(t, "type: MeshTimeout\nmesh: default\nname: p\nspec: {to: [{targetRef: {kind: Mesh}, default: "+
		"{idleTimeout: 1s}}]}")[0]
	tried := 0
	a.trial = func(*mesh.Resource) []mesh.Violation {
		tried++
		return []mesh.Violation{{Field: "spec.to[0]", Reason: "Envoy would reject it: too odd"}}
	}
	draft, err := a.Prepare(Request{Resource: r})
	if err != nil {
		t.Fatal(err)
	}
	view := replica.NewView(1, read(t, "type: Mesh\nname: default\n")...)
	_, err = draft.Admit(t.Context(), State{View: view})
	if err == nil || !strings.Contains(err.Error(), "too odd") || tried != 1 {
		t.Errorf("tried %d times: %v", tried, err)
	}
}
