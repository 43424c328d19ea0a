package validate

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// confs of each policy that are valid wherever they may stand.
var someConf = map[mesh.Kind]string{
	mesh.KindMeshTimeout:               "{idleTimeout: 1s}",
	mesh.KindMeshLoadBalancingStrategy: "{}",
	mesh.KindMeshRateLimit:             "{local: {http: {disabled: true}}}",
	mesh.KindMeshHealthCheck:           "{http: {}}",
	mesh.KindMeshCircuitBreaker:        "{connectionLimits: {maxRetries: 1}}",
	mesh.KindMeshRetry:                 "{http: {numRetries: 1}}",
	mesh.KindMeshFaultInjection:        "{}",
}

func toEntry(kind mesh.Kind, ref string) string {
	switch kind {
	case mesh.KindMeshHTTPRoute, mesh.KindMeshTCPRoute:
		return "{targetRef: " + ref + ", rules: []}"
	}
	return "{targetRef: " + ref + ", default: " + someConf[kind] + "}"
}

func entry(kind mesh.Kind, list, ref string) string {
	if list == "rules" {
		return list + ": [{default: " + someConf[kind] + "}]"
	}
	return list + ": [" + toEntry(kind, ref) + "]"
}

var refOf = map[string]string{
	"Mesh": "{kind: Mesh}", "Sidecar": "{kind: Mesh, proxyTypes: [Sidecar]}",
	"Dataplane": "{kind: Dataplane}", "MeshSubset": "{kind: MeshSubset, tags: {a: b}}",
	"MeshService": "{kind: MeshService, name: a}", "MeshServiceSubset": "{kind: MeshServiceSubset, name: a}",
	"MeshGateway":          "{kind: MeshGateway, name: a}",
	"MeshHTTPRoute":        "{kind: MeshHTTPRoute, name: a}",
	"MeshExternalService":  "{kind: MeshExternalService, name: a}",
	"MeshMultiZoneService": "{kind: MeshMultiZoneService, name: a}",
}

// kindRefused says that a document is refused for the kind of the targetRef at path.
func kindRefused(t *testing.T, doc, path string) bool {
	t.Helper()
	_, err := Resource(decodeOne(t, doc).Resource)
	for _, v := range violations(t, err) {
		if strings.HasPrefix(v, path+".kind: ") && strings.Contains(v, "is not supported here") {
			return true
		}
	}
	return false
}

// Which kinds a top-level targetRef may have: S system only, N anywhere, - nowhere.
func TestTopLevelKinds(t *testing.T) {
	t.Parallel()

	columns := []string{"Mesh", "Dataplane", "MeshSubset", "MeshService", "MeshServiceSubset", "MeshGateway",
		"MeshHTTPRoute", "MeshExternalService", "MeshMultiZoneService"}
	for kind, row := range map[mesh.Kind]string{
		mesh.KindMeshHTTPRoute:             "NNNNNS---",
		mesh.KindMeshTCPRoute:              "NNNNNS---",
		mesh.KindMeshLoadBalancingStrategy: "NNNNNN---",
		mesh.KindMeshRateLimit:             "NNNNNSS--",
		mesh.KindMeshHealthCheck:           "NNNNNN---",
		mesh.KindMeshCircuitBreaker:        "NNNNNN---",
		mesh.KindMeshRetry:                 "NNNNNSS--",
		mesh.KindMeshTimeout:               "NNNNNSS--",
		mesh.KindMeshFaultInjection:        "NNNNNS---",
	} {
		for i, column := range columns {
			spec := "targetRef: " + refOf[column]
			system := kindRefused(t, policyDoc(kind, spec), "spec.targetRef")
			own := kindRefused(t, "labels: {k8s.kuma.io/namespace: shop}\n"+policyDoc(kind, spec),
				"spec.targetRef")
			got := map[[2]bool]byte{{false, false}: 'N', {false, true}: 'S',
				{true, true}: '-'}[[2]bool{system, own}]
			if got != row[i] {
				t.Errorf("%s with top-level %s: %c, want %c", kind, column, got, row[i])
			}
		}
	}
}

func TestInnerKinds(t *testing.T) {
	t.Parallel()

	columns := []string{"Mesh", "MeshService", "MeshExternalService", "MeshMultiZoneService", "MeshHTTPRoute",
		"MeshSubset", "MeshServiceSubset", "Dataplane", "MeshGateway"}
	for _, tt := range []struct {
		kind      mesh.Kind
		top, list string
		want      string // y allowed
	}{
		{mesh.KindMeshHTTPRoute, "Mesh", "to", "-yyy-----"},
		{mesh.KindMeshHTTPRoute, "MeshGateway", "to", "y--------"},
		{mesh.KindMeshTCPRoute, "Mesh", "to", "-yyy-----"},
		{mesh.KindMeshTCPRoute, "MeshGateway", "to", "y--------"},
		{mesh.KindMeshLoadBalancingStrategy, "Mesh", "to", "yy-yy----"},
		{mesh.KindMeshLoadBalancingStrategy, "MeshGateway", "to", "yy-y-----"},
		{mesh.KindMeshRateLimit, "Mesh", "to", "y--------"},
		{mesh.KindMeshRateLimit, "Sidecar", "from", "y--------"},
		{mesh.KindMeshHealthCheck, "Mesh", "to", "yyyy-----"},
		{mesh.KindMeshHealthCheck, "MeshGateway", "to", "yyyy-----"},
		{mesh.KindMeshCircuitBreaker, "Mesh", "to", "yyyy-----"},
		{mesh.KindMeshCircuitBreaker, "Mesh", "from", "y--------"},
		{mesh.KindMeshRetry, "Mesh", "to", "yyyyy----"},
		{mesh.KindMeshRetry, "MeshGateway", "to", "y-y------"},
		{mesh.KindMeshRetry, "MeshHTTPRoute", "to", "y-y------"},
		{mesh.KindMeshTimeout, "Mesh", "to", "yyyyy----"},
		{mesh.KindMeshTimeout, "MeshHTTPRoute", "to", "y-y------"},
		{mesh.KindMeshTimeout, "Mesh", "from", "y--------"},
		{mesh.KindMeshFaultInjection, "Mesh", "to", "y--------"},
		{mesh.KindMeshFaultInjection, "Sidecar", "from", "yy---yy--"},
	} {
		for i, column := range columns {
			doc := policyDoc(tt.kind, "targetRef: "+refOf[tt.top]+", "+entry(tt.kind, tt.list, refOf[column]))
			if got := kindRefused(t, doc, "spec."+tt.list+"[0].targetRef"); got == (tt.want[i] == 'y') {
				t.Errorf("%s of %s under %s in %s: refused %v", column, tt.kind, tt.top, tt.list, got)
			}
		}
	}
}

// Which lists may stand together, and which need a scope that includes gateways.
func TestListsTogether(t *testing.T) {
	t.Parallel()

	excl, exclFrom := "spec: must not combine rules with to or from: make two policies",
		"spec: must not combine rules with from: make two policies"
	none := "spec: needs at least one of to, rules and from"
	from, rules, to := "spec.from: "+needsSidecars, "spec.rules: "+needsSidecars, "spec.to: "+needsGateways
	all := "to from rules"
	for _, tt := range []struct {
		kind       mesh.Kind
		top, lists string
		want       []string
	}{
		{mesh.KindMeshTimeout, "Mesh", "", []string{none}},
		{mesh.KindMeshCircuitBreaker, "Mesh", "", []string{none}},
		{mesh.KindMeshRateLimit, "Mesh", "", nil}, {mesh.KindMeshFaultInjection, "Mesh", "", nil},
		{mesh.KindMeshHealthCheck, "Mesh", "", nil},
		{mesh.KindMeshRetry, "Mesh", "", nil}, {mesh.KindMeshLoadBalancingStrategy, "Mesh", "", nil},
		{mesh.KindMeshTCPRoute, "Mesh", "", nil}, {mesh.KindMeshHTTPRoute, "Mesh", "", nil},
		{mesh.KindMeshCircuitBreaker, "Mesh", "to from", nil},
		{mesh.KindMeshCircuitBreaker, "Mesh", "from rules", []string{excl}},
		{mesh.KindMeshCircuitBreaker, "Mesh", "to rules", []string{excl}},
		{mesh.KindMeshCircuitBreaker, "Mesh", all, []string{excl}},
		{mesh.KindMeshRateLimit, "Sidecar", "from", nil}, {mesh.KindMeshRateLimit, "Sidecar", "rules", nil},
		{mesh.KindMeshRateLimit, "Dataplane", "rules", nil},
		{mesh.KindMeshRateLimit, "Sidecar", "from rules", []string{excl}},
		{mesh.KindMeshRateLimit, "Mesh", "rules", []string{rules}},
		{mesh.KindMeshRateLimit, "MeshSubset", "from", []string{from}},
		{mesh.KindMeshRateLimit, "MeshHTTPRoute", "rules", []string{rules}},
		{mesh.KindMeshRateLimit, "MeshGateway", "to", nil},
		{mesh.KindMeshRateLimit, "MeshService", "to", []string{to}},
		{mesh.KindMeshRateLimit, "Mesh", "to from", []string{from}},
		{mesh.KindMeshRateLimit, "Sidecar", "to from", []string{to}},
		{mesh.KindMeshRateLimit, "Mesh", "to rules", []string{excl, rules}},
		{mesh.KindMeshFaultInjection, "Mesh", "rules", nil},
		{mesh.KindMeshFaultInjection, "Mesh", "to rules", nil},
		{mesh.KindMeshFaultInjection, "Mesh", "from", []string{from}},
		{mesh.KindMeshFaultInjection, "Sidecar", "from", nil},
		{mesh.KindMeshFaultInjection, "Sidecar", "from rules", []string{exclFrom}},
		{mesh.KindMeshFaultInjection, "Dataplane", "to", []string{to}},
	} {
		spec := []string{"targetRef: " + refOf[tt.top]}
		for list := range strings.FieldsSeq(tt.lists) {
			spec = append(spec, entry(tt.kind, list, "{kind: Mesh}"))
		}
		refused{string(tt.kind) + " " + tt.top + " " + tt.lists, policyDoc(tt.kind, strings.Join(spec, ", ")),
			tt.want}.run(t)
	}
}

// A section of a Dataplane needs from or rules, where there are such.
func TestSections(t *testing.T) {
	t.Parallel()

	no := "spec.targetRef.sectionName: must not be given: it selects one inbound, and the policy " +
		"has neither " +
		"from nor rules"
	for kind := range someConf {
		info, _ := mesh.Lookup(kind)
		top := "targetRef: {kind: Dataplane, sectionName: http}, "
		if kind != mesh.KindMeshRateLimit && kind != mesh.KindMeshFaultInjection {
			refused{string(kind) + " to", policyDoc(kind, top+entry(kind, "to", "{kind: Mesh}")),
				[]string{no}}.run(t)
		}
		if info.Policy.HasRules {
			refused{string(kind) + " rules", policyDoc(kind, top+entry(kind, "rules", "")), nil}.run(t)
		}
	}
}

func TestValidateTargets(t *testing.T) {
	t.Parallel()

	top := func(ref string) string {
		return timeoutDoc("{targetRef: " + ref + ", to: [{targetRef: {kind: Mesh}, " + anyTimeout + "}]}")
	}
	to := func(ref string) string {
		return timeoutDoc("{to: [{targetRef: " + ref + ", " + anyTimeout + "}]}")
	}
	kinds := "Mesh, MeshSubset, MeshGateway, MeshService, MeshExternalService, MeshMultiZoneService, " +
		"MeshServiceSubset, MeshHTTPRoute, Dataplane"
	for _, tt := range []refused{
		{"mesh", top("{kind: Mesh, proxyTypes: [Sidecar, Gateway]}"), nil},
		{"empty", top("{}"), []string{"spec.targetRef.kind: is required: one of " + kinds}},
		{"unknown kind", top("{kind: Pod}"), []string{"spec.targetRef.kind: must be one of " + kinds}},
		{"mesh with all", top("{kind: Mesh, name: default, namespace: b, labels: {a: b}, " +
			"sectionName: c, tags: " +
			"{d: e}, mesh: f}"), []string{
			"spec.targetRef.mesh: must not be given: a policy is about its own mesh",
			"spec.targetRef.name: must not be given with kind Mesh",
			"spec.targetRef.namespace: must not be given with kind Mesh",
			"spec.targetRef.labels: must not be given with kind Mesh",
			"spec.targetRef.sectionName: must not be given with kind Mesh",
			"spec.targetRef.tags: must not be given with kind Mesh"}},
		{"proxy types", top("{kind: Mesh, proxyTypes: [Sidecar, Sidecar]}"),
			[]string{"spec.targetRef.proxyTypes: must not repeat an item"}},
		{"proxy type", top("{kind: Mesh, proxyTypes: [Egress]}"),
			[]string{"spec.targetRef.proxyTypes[0]: must be one of Sidecar, Gateway"}},
		{"dataplane", top("{kind: Dataplane}"), nil},
		{"dataplane name and labels", top("{kind: Dataplane, name: a, labels: {b: c}}"),
			[]string{"spec.targetRef.labels: cannot be combined with name or namespace"}},
		{"dataplane section without inbound", top("{kind: Dataplane, name: a, sectionName: b}"),
			[]string{"spec.targetRef.sectionName: must not be given: it selects one inbound, and " +
				"the policy " +
				"has neither from nor rules"}},
		{"dataplane section with rules",
			timeoutDoc("{targetRef: {kind: Dataplane, name: a, sectionName: b}, rules: [{" + anyTimeout +
				"}]}"), nil},
		{"dataplane tags", top("{kind: Dataplane, tags: {a: b}, proxyTypes: [Sidecar]}"),
			[]string{"spec.targetRef.tags: must not be given with kind Dataplane",
				"spec.targetRef.proxyTypes: must not be given with kind Dataplane"}},
		{"subset", top("{kind: MeshSubset, tags: {a: 'b c', 'd e': f}}"),

			[]string{`spec.targetRef.tags["a"]: has a value that no tag may have: letters, digits and . ` +
				`- _ :`, `spec.targetRef.tags["d e"]: is not the name of a tag: letters, digits and . - ` +
				`_ : /`}},
		{"service subset", top("{kind: MeshServiceSubset, tags: {a: '*'}}"),
			[]string{"spec.targetRef.name: is required"}},
		{"name syntax", top("{kind: MeshService, name: A b}"),
			[]string{`spec.targetRef.name: must be lower-case letters, digits, "-", "." and "_"`}},
		{"external at top", top("{kind: MeshExternalService, name: a}"),
			[]string{"spec.targetRef.kind: MeshExternalService is not supported here: use one of Mesh, " +
				"Dataplane, MeshSubset, MeshService, MeshServiceSubset, MeshGateway, MeshHTTPRoute"}},
		{"service in to", to("{kind: MeshService, name: a, sectionName: b, namespace: c}"), nil},
		{"service by nothing", to("{kind: MeshService}"),
			[]string{"spec.to[0].targetRef: needs a name or labels"}},
		{"multi-zone by nothing", to("{kind: MeshMultiZoneService}"),
			[]string{"spec.to[0].targetRef: needs a name or labels"}},
		{"service by both", to("{kind: MeshService, namespace: a, labels: {b: c}}"),
			[]string{"spec.to[0].targetRef.labels: cannot be combined with name or namespace"}},
		{"route with section", to("{kind: MeshHTTPRoute, name: a, sectionName: b}"),
			[]string{"spec.to[0].targetRef.sectionName: must not be given with kind MeshHTTPRoute"}},
		{"dataplane in to", to("{kind: Dataplane}"),
			[]string{"spec.to[0].targetRef.kind: Dataplane is not supported here: use one of Mesh, " +
				"MeshService, MeshExternalService, MeshMultiZoneService, MeshHTTPRoute"}},
		{"no target in to", timeoutDoc("{to: [{" + anyTimeout + "}]}"),
			[]string{"spec.to[0].targetRef: is required"}},
		{"bad label", to("{kind: MeshService, labels: {'a b': c}}"),
			[]string{`spec.to[0].targetRef.labels["a b"]: is not a key of a label`}},
	} {
		tt.run(t)
	}
}
