package ca

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Defaults are resources that a person could have written: they validate and survive the codec.
func TestDefaults(t *testing.T) {
	want := map[string]string{
		"MeshTimeout mesh-timeout-all-shop": `{"targetRef":{"kind":"Mesh","proxyTypes":["Sidecar"]},` +

			`"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"5s","idleTimeout":"1h0m0s","http":{"requestTimeout":"15s","streamIdleTimeout":"30m0s"}}}],` +

			`"from":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"10s","idleTimeout":"2h0m0s","http":{"requestTimeout":"0s","streamIdleTimeout":"1h0m0s","maxStreamDuration":"0s"}}}]}`,

		"MeshTimeout mesh-gateways-timeout-all-shop": `{"targetRef":{"kind":"Mesh","proxyTypes":["Gateway"]},` +

			`"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1h0m0s","http":{"streamIdleTimeout":"5s"}}}],` +

			`"from":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"5m0s","http":{"streamIdleTimeout":"5s","requestHeadersTimeout":"500ms"}}}]}`,

		"MeshCircuitBreaker mesh-circuit-breaker-all-shop": `{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"Mesh"},"default":{` +

			`"connectionLimits":{"maxConnections":1024,"maxPendingRequests":1024,"maxRetries":1024,"maxRequests":1024},` +

			`"outlierDetection":{"interval":"1s","baseEjectionTime":"5s","maxEjectionPercent":100,"splitExternalAndLocalErrors":true,` +
			`"detectors":{"gatewayFailures":{"consecutive":3},"localOriginFailures":{"consecutive":3}}}}}]}`,

		"MeshRetry mesh-retry-all-shop": `{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"Mesh"},"default":{"tcp":{"maxConnectAttempt":5},` +
			`"http":{"numRetries":5,"backOff":{"baseInterval":"25ms","maxInterval":"250ms"},` +

			`"hostSelection":[{"predicate":"OmitPreviousHosts"},{"predicate":"OmitPreviousPriorities","updateFrequency":2}],"hostSelectionMaxAttempts":5},` +
			`"grpc":{"numRetries":5,"backOff":{"baseInterval":"25ms","maxInterval":"250ms"}}}}]}`,
	}
	of := func(skip ...string) []*mesh.Resource {
		var out []*mesh.Resource
		m := &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindMesh, Name: "shop"},
			Spec: &meshv1.Mesh{SkipCreatingInitialPolicies: skip},
		}
		for _, op := range Defaults(m) {
			out = append(out, op.(store.Put).Resource)
		}
		return out
	}
	got := map[string]string{}
	for _, r := range of() {
		if _, err := validate.Resource(r); err != nil {
			t.Errorf("%v: %v", r.Key, err)
		}
		if r.Key.Mesh != "shop" || r.Labels[mesh.LabelManagedBy] != mesh.ManagedByDefaults {
			t.Errorf("%v with %v", r.Key, r.Labels)
		}
		text, err := codec.EncodeJSON(r)
		if err != nil {
			t.Fatal(err)
		}
		_, spec, _ := strings.Cut(string(text), `"spec":`)
		got[string(r.Key.Kind)+" "+r.Key.Name] = strings.TrimSuffix(spec, "}")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if all := of("*"); len(all) != 0 {
		t.Errorf("%d in spite of *", len(all))
	}
	rest := of("MeshTimeout", "MeshRetry")
	if len(rest) != 1 || !slices.ContainsFunc(rest,
		func(r *mesh.Resource) bool { return r.Key.Kind == mesh.KindMeshCircuitBreaker }) {
		t.Errorf("without timeouts and retries: %v", rest)
	}
}
