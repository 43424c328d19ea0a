package validate

import "testing"

func permissionDoc(spec string) string { return "type: MeshTrafficPermission\nname: a\nspec: " + spec }

func TestValidatePermission(t *testing.T) {
	t.Parallel()

	rule := func(conf string) string { return permissionDoc("{rules: [{default: " + conf + "}]}") }
	id := func(kind, value string) string {
		return rule("{allow: [{spiffeID: {type: " + kind + ", value: '" + value + "'}}]}")
	}
	const at = "spec.rules[0].default.allow[0].spiffeID.value: "
	for _, tt := range []refused{
		{"rules", id("Exact", "spiffe://default.east.mesh.local/ns/shop/sa/web"), nil},
		{"prefix of a trust domain", id("Prefix", "spiffe://default"), nil},
		{"prefix with slash", id("Prefix", "spiffe://default/ns/"), nil},
		{"exact with slash", id("Exact", "spiffe://default/ns/"),
			[]string{at + "must not end with a slash nor have an empty or relative path segment"}},
		{"no scheme", id("Exact", "default/ns"), []string{at + "must begin with spiffe://"}},
		{"domain", id("Exact", "spiffe://Default/ns"),

			[]string{at + `must have a trust domain of lower-case letters, digits, ".", "-" and "_" ` +
				`after spiffe://`}},
		{"no domain", id("Prefix", "spiffe://"),
			[]string{at + `must have a trust domain of lower-case letters, digits, ".", "-" and "_" ` +
				`after spiffe://`}},
		{"character", id("Exact", "spiffe://d/a*"),
			[]string{at + "has a character that no SPIFFE ID may have: '*'"}},
		{"from", permissionDoc("{from: [{targetRef: {kind: MeshSubset, tags: {kuma.io/service: " +
			"web}}, default: " +
			"{action: Allow}}]}"), nil},
		{"action", permissionDoc("{from: [{targetRef: {kind: Mesh}, default: {action: ALLOW}}, {targetRef: " +
			"{kind: Mesh}, default: {}}, {targetRef: {kind: Mesh}}]}"), []string{
			"spec.from[0].default.action: must be one of Allow, Deny, AllowWithShadowDeny",
			"spec.from[1].default.action: is required: one of Allow, Deny, AllowWithShadowDeny",
			"spec.from[2].default: is required"}},
		{"from by labels", permissionDoc("{from: [{targetRef: {kind: MeshService, labels: {a: " +
			"b}}, default: " +
			"{action: Deny}}]}"), []string{
			"spec.from[0].targetRef.name: is required: callers are distinguished by their tag " +
				"kuma.io/service"}},
		{"nothing", permissionDoc("{}"), []string{"spec: needs rules or from"}},
		{"both", permissionDoc("{from: [{targetRef: {kind: Mesh}, default: {action: Allow}}], rules: " +
			"[{default: {allow: [{sni: {type: Exact, value: a}}]}}]}"),
			[]string{"spec: must not combine rules and from: make two policies"}},
		{"empty rule", rule("{}"),
			[]string{"spec.rules[0].default: needs at least one of allow, deny and allowWithShadowDeny"}},
		{"no default", permissionDoc("{rules: [{}]}"), []string{"spec.rules[0].default: is required"}},
		{"empty match", rule("{deny: [{}]}"),
			[]string{"spec.rules[0].default.deny[0]: needs spiffeID or sni"}},
		{"gateway", permissionDoc("{targetRef: {kind: MeshGateway, name: a}, rules: [{default: " +
			"{allow: [{sni: " +
			"{type: Exact, value: a}}]}}]}"), []string{
			"spec.targetRef.kind: MeshGateway is not supported here: use one of Mesh, Dataplane, " +
				"MeshSubset, " +
				"MeshService, MeshServiceSubset"}},
		{"section", permissionDoc("{targetRef: {kind: Dataplane, sectionName: http}, rules: " +
			"[{default: {allow: " +
			"[{sni: {type: Exact, value: a}}]}}]}"), nil},
	} {
		tt.run(t)
	}
}
