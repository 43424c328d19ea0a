package codec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
)

func policyDoc(kind mesh.Kind, spec string) string {
	return "type: " + string(kind) + "\nname: a\nspec: {" + spec + "}"
}

// Forms that the codec refuses: scalars of the wrong type and
// unknown fields.
func TestDecodeRefusesConfs(t *testing.T) {
	t.Parallel()

	breaker := func(s string) string {
		return policyDoc(mesh.KindMeshCircuitBreaker,
			"rules: [{default: {outlierDetection: {detectors: {successRate: {standardDeviationFactor: "+s+
				"}}}}}]")
	}
	idle := func(s string) string {
		return policyDoc(mesh.KindMeshTimeout, "rules: [{default: {idleTimeout: "+s+"}}]")
	}
	check := func(s string) string {
		return policyDoc(mesh.KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	factor, c := "spec.rules[0].default.outlierDetection.detectors.successRate.standardDeviationFactor",
		"spec.to[0].default."
	for text, want := range map[string]string{
		breaker("1.9"): factor +
			`: must be an integer or text: put 1.9 in quotes`,

		idle("1d"): `spec.rules[0].default.idleTimeout: "1d" is not a duration: use numbers with the ` +
			`units ns, us, ms, s, m or h, such as "1h30m"`,

		idle("5"): `spec.rules[0].default.idleTimeout: is a number without a unit: write a duration ` +
			`such as "5s"`,

		idle("'5'"): `spec.rules[0].default.idleTimeout: has no unit: write a ` +
			`duration such as "5s"`,
		check("tcp: {send: 'no base64!'}"):   c + "tcp.send: must be base64 text",
		check("tcp: {receive: [Zm9v, Zm9]}"): c + "tcp.receive[1]: must be base64 text",
		check("http: {initialJitter: 1s}"): c +
			"http.initialJitter: unknown field: known are disabled, expectedStatuses, path, " +
			"requestHeadersToAdd",
		check("http: {interval: 1s, " +
			"interval: 2s}"): c + "http.interval: is given twice",
		check("http: {interval: 5}"): c +
			`interval: is a number without a unit: write a duration such as "5s"`,

		check("http: {}, unhealthyThreshold: -1"): c +
			"unhealthyThreshold: must be a decimal integer from 0 to 4294967295",
		policyDoc(mesh.KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {numRetries: 1}}]"): c +
			"numRetries: unknown field: known are grpc, http, tcp",
		policyDoc(mesh.KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: [600]}}}]"): c +
			"http.retryOn[0]: must be text: put 600 in quotes",
		policyDoc(mesh.KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: 503}}}]"): c +
			"http.retryOn: must be a list, not the number 503",
		policyDoc(mesh.KindMeshTCPRoute,
			"to: [{targetRef: {kind: MeshService, name: a}, rules: "+
				"[{matches: []}]}]"): "spec.to[0].rules[0].matches: unknown field: known are default",
		policyDoc(mesh.KindMeshCircuitBreaker,
			"rules: [{matches: []}]"): "spec.rules[0].matches: unknown field: known are default",
		policyDoc(mesh.KindMeshTCPRoute,
			"to: []"): "spec.to: must not be empty: leave it out or give at least one item",
		policyDoc(mesh.KindMeshRetry,
			"targetRef: {kind: Mesh, proxyTypes: []}"): "spec.targetRef.proxyTypes: must not be " +
			"empty: leave " +
			"it out or give at least one item",
		policyDoc(mesh.KindMeshHealthCheck,
			"rules: []"): "spec.rules: unknown field: known are targetRef, to",
		policyDoc(mesh.KindMeshTCPRoute,
			"to: [{targetRef: {kind: Mesh}, rules: [{default: {backendRefs: [{kind: MeshService, name: a, "+
				"weight: -1}]}}]}]"): "spec.to[0].rules[0].default.backendRefs[0].weight: must " +
			"be a decimal " +
			"integer from 0 to 4294967295",
		policyDoc(mesh.KindMeshRateLimit,
			"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, "+
				"numRequests: 2}}}}}]"): "spec.from[0].default.local.http.requestRate.numRequests: unknown " +
			"field: known are interval, num",
	} {
		_, err := Decode([]byte(text))
		if got := violations(t, err); len(got) != 1 || got[0] != want {
			t.Errorf("%s\ngives  %q\nwanted %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"1h2m3.5s": "1h2m3.5s", "1500us": "1.5ms", `"0"`: "0s",
		".5m": "30s"} {
		out, err := EncodeJSON(decodeOne(t, idle(text)).Resource)
		if err != nil || !strings.Contains(string(out), `"idleTimeout":"`+want+`"`) {
			t.Errorf("%s gives %s, %v", text, out, err)
		}
	}
}

// Documents 04 to 09 of public guides, as they stand.
func TestDecodePolicyGuides(t *testing.T) {
	t.Parallel()

	rate := "spec.from[0].default.local.http.requestRate."
	http := "spec.to[0].default.http."
	deprecated := "spec.targetRef.kind: MeshService is deprecated here: use Dataplane with labels"
	for name, tt := range map[string]struct {
		key      string
		warnings []string
		conf     string
	}{
		"canary": {"MeshHTTPRoute booking-gateway-to-ticket-booking", []string{deprecated}, ""},
		"least-request": {"MeshLoadBalancingStrategy ticket-booking-to-mesh", []string{deprecated},
			`{"loadBalancer":{"type":"LeastRequest"}}`},
		"rate-limit": {"MeshRateLimit ticket-booking-from-mesh",
			[]string{rate + "numRequests: read as num, which is the field's name", deprecated,
				"spec.from: is deprecated: use rules"},
			`{"local":{"http":{"requestRate":{"num":100,"interval":"1s"},"onRateLimit":{"status":429}}}}`},
		"health-check": {"MeshHealthCheck flight-search-to-mesh",
			[]string{http + "interval: read as spec.to[0].default.interval, which is where the field belongs",
				http + "unhealthyThreshold: read as spec.to[0].default.unhealthyThreshold, which " +
					"is where the " +
					"field belongs", deprecated},
			`{"interval":"5s","unhealthyThreshold":3,"http":{"path":"/health"}}`},
		"circuit-breaker": {"MeshCircuitBreaker ticket-booking-to-mesh", []string{deprecated},

			`{"outlierDetection":{"baseEjectionTime":"30s","splitExternalAndLocalErrors":true,` +
				`"detectors":{"totalFailures":{"consecutive":5}}}}`},
		"retry": {"MeshRetry ticket-booking-to-mesh",
			[]string{http + "retryOn[1]: read as ConnectFailure, which is how it is spelt", deprecated},
			`{"http":{"numRetries":3,"retryOn":["5xx","ConnectFailure"]}}`},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		doc := decodeOne(t, string(data))
		warnings, err := validate.Resource(doc.Resource)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k := doc.Resource.Key
		if got := string(k.Kind) + " " + k.Name; got != tt.key || !doc.DerivedName || k.Mesh != "default" {
			t.Errorf("%s is %v", name, k)
		}
		if diff := cmp.Diff(tt.warnings, append(doc.Warnings[1:], warnings...)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		text, err := EncodeJSON(doc.Resource)
		if err != nil || !strings.Contains(string(text), `"default":`+tt.conf) {
			t.Errorf("%s: %s %v", name, text, err)
		}
		again := decodeOne(t, string(text))
		if diff := cmp.Diff(doc.Resource, again.Resource, protocmp.Transform()); diff != "" ||
			len(again.Warnings) != 0 {
			t.Errorf("%s again: %q\n%s", name, again.Warnings, diff)
		}
	}
}

func TestNormalise(t *testing.T) {
	t.Parallel()

	limit := func(top, rate string) string {
		return policyDoc(mesh.KindMeshRateLimit,
			top+"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {"+rate+
				", interval: 1s}}}}}]")
	}
	check := func(s string) string {
		return policyDoc(mesh.KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: "+s+"}]")
	}
	retry := func(s string) string {
		return policyDoc(mesh.KindMeshRetry, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	sidecars := "spec.targetRef: from is about sidecars, so this is read as kind Mesh with " +
		"proxyTypes [Sidecar]"
	d := "spec.to[0].default."
	for _, tt := range []struct {
		text, want string
		warnings   []string
	}{
		{limit("", "num: 1"), `"targetRef":{"kind":"Mesh","proxyTypes":["Sidecar"]}`, []string{sidecars}},
		{limit("targetRef: {kind: Mesh}, ", "requests: 1"), `"num":1`,
			[]string{sidecars,
				"spec.from[0].default.local.http.requestRate.requests: read as num, which is the " +
					"field's name"}},
		{limit("targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, ", "num: 1"), `"num":1`, nil},
		{limit("targetRef: {kind: Dataplane}, ", "num: 1"), `"targetRef":{"kind":"Dataplane"}`, nil},
		{check("{interval: 1s, http: {interval: 2s, timeout: 3s, healthyThreshold: 4, path: /}}"),
			`{"interval":"1s","timeout":"3s","healthyThreshold":4,"http":{"path":"/"}}`, []string{
				d + "http.interval: left out: interval beside http holds",
				d + "http.timeout: read as spec.to[0].default.timeout, which is where the field belongs",
				d + "http.healthyThreshold: read as spec.to[0].default.healthyThreshold, which " +
					"is where the " +
					"field belongs"}},
		{check("{http: null, tcp: {}}"), `{"tcp":{}}`, nil},
		{retry("http: {retryOn: [503, 5XX, gateway-error, HTTP_METHOD_GET, Reset, '429']}"),
			`["503","5xx","GatewayError","HttpMethodGet","Reset","429"]`, []string{
				d + "http.retryOn[0]: read as text: put 503 in quotes",
				d + "http.retryOn[1]: read as 5xx, which is how it is spelt",
				d + "http.retryOn[2]: read as GatewayError, which is how it is spelt",
				d + "http.retryOn[3]: read as HttpMethodGet, which is how it is spelt"}},
		{retry("grpc: {retryOn: [deadline-exceeded]}"), `["DeadlineExceeded"]`,
			[]string{d + "grpc.retryOn[0]: read as DeadlineExceeded, which is how it is spelt"}},
		// An alias stands for the same nodes twice: both are read, and neither sees what became of the other.
		{retry("http: &h {retryOn: [503]}}}, {targetRef: {kind: Mesh}, default: {http: *h"),
			`{"retryOn":["503"]}}},{"targetRef":{"kind":"Mesh"},"default":{"http":{"retryOn":["503"]}}}`,
			[]string{
				d + "http.retryOn[0]: read as text: put 503 in quotes",
				"spec.to[1].default.http.retryOn[0]: read as text: put 503 in quotes"}},
	} {
		doc := decodeOne(t, tt.text)
		text, err := EncodeJSON(doc.Resource)
		if err != nil || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s\ngives %s, %v; want %s", tt.text, text, err, tt.want)
		}
		if diff := cmp.Diff(tt.warnings, doc.Warnings); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", tt.text, diff)
		}
		if _, err := validate.Resource(doc.Resource); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}
