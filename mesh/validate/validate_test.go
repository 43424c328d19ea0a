package validate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func violations(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var v *mesh.ValidationError
	if !errors.As(err, &v) {
		t.Fatalf("error is not a ValidationError: %v", err)
	}
	var out []string
	for _, x := range v.Violations {
		out = append(out, x.Field+": "+x.Reason)
	}
	return out
}

func decodeOne(t *testing.T, text string) codec.Document {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if len(docs) != 1 {
		t.Fatalf("got %d documents, want 1", len(docs))
	}
	return docs[0]
}

func policyDoc(kind mesh.Kind, spec string) string {
	return "type: " + string(kind) + "\nname: a\nspec: {" + spec + "}"
}

func TestPolicyWarnings(t *testing.T) {
	t.Parallel()

	for text, want := range map[string][]string{
		policyDoc(mesh.KindMeshLoadBalancingStrategy,
			"to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Maglev, maglev: {hashPolicies: "+
				"[{type: SourceIP, connection: {}}]}}}}]"): {
			"spec.to[0].default.loadBalancer.maglev.hashPolicies: is deprecated here: use " +
				"hashPolicies beside " +
				"loadBalancer",
			"spec.to[0].default.loadBalancer.maglev.hashPolicies[0].type: SourceIP is deprecated: use " +
				"Connection with sourceIP true"},
		policyDoc(mesh.KindMeshHealthCheck,
			"to: [{targetRef: {kind: Mesh}, default: {tcp: {}, healthyPanicThreshold: 5}}]"): {
			"spec.to[0].default.healthyPanicThreshold: is deprecated here: use " +
				"outlierDetection.healthyPanicThreshold of MeshCircuitBreaker"},
		policyDoc(mesh.KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: {tcp: {}, "+
			"timeout: 15s, initialJitter: 1000h}}]"): {
			"spec.to[0].default.initialJitter: a proxy that starts uses the destination only after its " +
				"first checks, up to 1000h0m0s later"},
		policyDoc(mesh.KindMeshRateLimit,
			"to: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, "+
				"interval: 1s}}}}}]"): {
			"spec.to: " + noGateways},
		policyDoc(mesh.KindMeshFaultInjection,
			"rules: [{default: {http: [{abort: {httpStatus: 100, percentage: 1}}]}}]"): {
			"spec.rules[0].default.http[0].abort.httpStatus: has no effect: an answer below 200 " +
				"ends no request"},
		policyDoc(mesh.KindMeshRetry,
			"targetRef: {kind: MeshHTTPRoute, name: a}, to: [{targetRef: {kind: Mesh}, default: {http: "+
				"{numRetries: 1}}}]"): {
			"spec.targetRef.kind: MeshHTTPRoute has no effect here: use it in to[].targetRef"},
	} {
		got, err := Resource(decodeOne(t, text).Resource)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", text, diff)
		}
	}
}

// Resources of peers have not gone through Decode: lists may hold nil.
func TestValidateForeignPolicies(t *testing.T) {
	t.Parallel()

	for _, spec := range []*mesh.Resource{
		{
			Key: mesh.Key{Kind: mesh.KindMeshTCPRoute},
			Spec: &meshv1.MeshTCPRoute{To: []*meshv1.MeshTCPRoute_To{nil,
				{Rules: []*meshv1.MeshTCPRoute_Rule{nil}}}},
		},
		{
			Key: mesh.Key{Kind: mesh.KindMeshLoadBalancingStrategy},
			Spec: &meshv1.MeshLoadBalancingStrategy{To: []*meshv1.MeshLoadBalancingStrategy_To{nil,
				{Default: &meshv1.MeshLoadBalancingStrategy_Conf{
					HashPolicies: []*meshv1.MeshLoadBalancingStrategy_HashPolicy{nil}}}}},
		},
		{
			Key: mesh.Key{Kind: mesh.KindMeshRateLimit},
			Spec: &meshv1.MeshRateLimit{
				From:  []*meshv1.MeshRateLimit_From{nil},
				To:    []*meshv1.MeshRateLimit_To{nil},
				Rules: []*meshv1.MeshRateLimit_Rule{nil, {Matches: []*meshv1.Match{nil}}},
			},
		},
		{
			Key: mesh.Key{Kind: mesh.KindMeshFaultInjection},
			Spec: &meshv1.MeshFaultInjection{
				From: []*meshv1.MeshFaultInjection_From{nil},
				Rules: []*meshv1.MeshFaultInjection_Rule{nil, {
					Matches: []*meshv1.Match{nil},
					Default: &meshv1.MeshFaultInjection_Conf{Http: []*meshv1.MeshFaultInjection_Fault{nil}},
				}},
			},
		},
		{
			Key:  mesh.Key{Kind: mesh.KindMeshHealthCheck},
			Spec: &meshv1.MeshHealthCheck{To: []*meshv1.MeshHealthCheck_To{nil}},
		},
		{
			Key: mesh.Key{Kind: mesh.KindMeshCircuitBreaker},
			Spec: &meshv1.MeshCircuitBreaker{
				To:    []*meshv1.MeshCircuitBreaker_To{nil},
				From:  []*meshv1.MeshCircuitBreaker_From{nil},
				Rules: []*meshv1.MeshCircuitBreaker_Rule{nil},
			},
		},
		{
			Key: mesh.Key{Kind: mesh.KindMeshRetry},
			Spec: &meshv1.MeshRetry{To: []*meshv1.MeshRetry_To{nil,
				{Default: &meshv1.MeshRetry_Conf{Http: &meshv1.MeshRetry_Http{
					HostSelection:           []*meshv1.MeshRetry_HostSelection{nil},
					RetriableRequestHeaders: []*meshv1.MeshHTTPRoute_HeaderMatch{nil},
				}}}}},
		},
	} {
		spec.Key.Mesh, spec.Key.Name = "m", "a"
		if _, err := Resource(spec); err == nil {
			t.Errorf("%v accepted", spec)
		}
	}
}

// refused runs documents through Decode and Validate and compares what is refused.
type refused struct {
	name, text string
	want       []string
}

func (tt refused) run(t *testing.T) {
	t.Run(tt.name, func(t *testing.T) {
		_, err := Resource(decodeOne(t, tt.text).Resource)
		got := violations(t, err)
		slices.Sort(got)
		want := slices.Sorted(slices.Values(tt.want))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", tt.text, diff)
		}
	})
}

func TestValidateNames(t *testing.T) {
	t.Parallel()

	long := strings.Repeat("a", 64)
	label := "is not a key of a label: up to 63 letters, digits, \"-\", \"_\" and \".\", after an " +
		"optional DNS " +
		"name and \"/\""
	value := "has a value that no label may have: up to 63 letters, digits, \"-\", \"_\" and " +
		"\".\", beginning " +
		"and ending with a letter or digit"
	for _, tt := range []refused{
		{"good", "type: Zone\nname: east-1.eu\nlabels: {a.b/c: d_e, f: ''}", nil},
		{"upper case", "type: Zone\nname: East",

			[]string{`name: must be lower-case letters, digits, "-" and ".", and begin and end with a ` +
				`letter or digit`}},
		{"ends with dash", "type: Zone\nname: e-",
			[]string{`name: must be lower-case letters, digits, "-" and ".", and begin and end with a ` +
				`letter or digit`}},
		{"long mesh", "type: Mesh\nname: " + long, []string{"name: must have at most 63 characters, has 64"}},
		{"long timeout", "type: MeshHTTPRoute\nname: " + strings.Repeat(long+".", 4) + "a\nspec: {}",
			[]string{"name: must have at most 253 characters, has 261"}},
		{"mesh name", "type: MeshHTTPRoute\nname: a\nmesh: A\nspec: {}",

			[]string{`mesh: is not the name of a mesh: lower-case letters, digits, "-", "." and "_", at ` +
				`most 63`}},
		{"labels", "type: Zone\nname: a\nlabels: {'a b': c, d: 'e f', kuma.io/origin: here, " +
			"kuma.io/workload: X}",
			[]string{`labels["a b"]: ` + label, `labels["d"]: ` + value,
				`labels["kuma.io/origin"]: must be global or zone`,
				`labels["kuma.io/workload"]: must be lower-case letters, digits and "-"`}},
		{"long display name", "type: Zone\nname: a\nlabels: {kuma.io/display-name: " + long + "}", nil},
	} {
		tt.run(t)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()

	for text, want := range map[string][]string{
		timeoutDoc("{targetRef: {kind: MeshSubset}, from: [{targetRef: {kind: Mesh}, " + anyTimeout +
			"}]}"): {
			"spec.targetRef.kind: MeshSubset is deprecated here: use Dataplane with labels",
			"spec.from: is deprecated: use rules"},
		timeoutDoc("{to: [{targetRef: {kind: MeshHTTPRoute, name: a}, default: " +
			"{connectionTimeout: 1s, http: " +
			"{requestTimeout: 1s}}}]}"): {
			"spec.to[0].default.connectionTimeout: has no effect on a route"},
		"type: MeshService\nname: a\nspec: {ports: [{port: 1}]}": {
			"spec.selector: is empty: the service has no instances",
			"spec.ports[0].targetPort: is not given: the port has no instances"},
		timeoutDoc("{rules: [{" + anyTimeout + "}]}"): nil,
		"type: Dataplane\nname: a\nnetworking: {address: 192.0.2.1, listeners: [{type: ZoneIngress, " +
			"port: 1}]}": {
			"networking.listeners: has no effect: zone proxies of one mesh are not supported yet; a " +
				"ZoneIngress serves every mesh"},
		"type: Dataplane\nname: a\nnetworking: {address: 192.0.2.1, outbound: [{port: 1, backendRef: " +
			"{kind: MeshExternalService, name: b}}]}": {
			"networking.outbound[0].backendRef.kind: MeshExternalService is not supported yet: " +
				"calls to it fail"},
	} {
		got, err := Resource(decodeOne(t, text).Resource)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", text, diff)
		}
	}
}

// Validate must not need what Decode makes sure of: resources come from peers, too.
func TestValidateForeign(t *testing.T) {
	t.Parallel()

	for _, r := range []*mesh.Resource{
		{}, {Key: mesh.Key{Kind: mesh.KindMesh}}, {Key: mesh.Key{Kind: "Nothing", Name: "a"}},
		{
			Key:  mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "m", Name: "a"},
			Spec: &meshv1.MeshHTTPRoute{To: []*meshv1.MeshHTTPRoute_To{nil}},
		},
		{
			Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "m", Name: "a"},
			Spec: &meshv1.MeshTimeout{Rules: []*meshv1.MeshTimeout_Rule{{Matches: []*meshv1.Match{nil}}}},
		},
		{
			Key:  mesh.Key{Kind: mesh.KindMeshService, Mesh: "m", Namespace: "A", Name: "a"},
			Spec: &meshv1.MeshService{},
		},
	} {
		if _, err := Resource(r); err == nil {
			t.Errorf("%v accepted", r)
		}
	}
}
