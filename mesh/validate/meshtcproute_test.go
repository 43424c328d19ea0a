package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateTCPRoute(t *testing.T) {
	t.Parallel()

	to := func(s string) string {
		return policyDoc(mesh.KindMeshTCPRoute, "to: [{targetRef: {kind: MeshService, name: b}, "+s+"}]")
	}
	b := "spec.to[0].rules[0].default.backendRefs"
	for _, tt := range []refused{
		{"good", to("rules: [{default: {backendRefs: [{kind: MeshService, name: c, port: 80, weight: 0}, " +
			"{kind: MeshMultiZoneService, name: c, sectionName: http}]}}]"), nil},
		{"itself", to("rules: []"), nil},
		{"two rules", to("rules: [{default: {backendRefs: [{kind: MeshService, name: c}]}}, {default: " +
			"{backendRefs: [{kind: MeshService, name: c}]}}]"),
			[]string{"spec.to[0].rules: must have at most one item"}},
		{"no default", to("rules: [{}]"), []string{"spec.to[0].rules[0].default: is required"}},
		{"no backends", to("rules: [{default: {}}]"), []string{b + ": is required"}},
		{"empty backends", to("rules: [{default: {backendRefs: []}}]"), []string{b + ": is required"}},
		{"backends", to("rules: [{default: {backendRefs: [{kind: Mesh}, {kind: " +
			"MeshMultiZoneService, name: c}, " +
			"{kind: MeshService, name: c, labels: {a: b}}]}}]"), []string{
			b + "[0].kind: must be one of MeshService, MeshServiceSubset, MeshExternalService, " +
				"MeshMultiZoneService",
			b + "[1].port: is required for a MeshMultiZoneService, or sectionName",
			b + "[2].labels: cannot be combined with name or namespace"}},
	} {
		tt.run(t)
	}
}
