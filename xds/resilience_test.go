package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy/defaults"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// fourPorts is web-1, which calls a port of each protocol of backend; a policy stands in front.
const fourPorts = `
# proxy web-1
type: Mesh
name: default
---
type: MeshService
mesh: default
name: backend
spec:
  selector: {dataplaneTags: {kuma.io/service: backend}}
  ports:
  - {port: 3001, name: http, appProtocol: http}
  - {port: 3002, name: http2, appProtocol: http2}
  - {port: 3003, name: grpc, appProtocol: grpc}
  - {port: 3004, name: tcp, appProtocol: tcp}
---
type: Dataplane
mesh: default
name: web-1
networking:
  address: 10.0.0.5
  outbound:
  - {port: 10001, backendRef: {kind: MeshService, name: backend, port: 3001}}
  - {port: 10002, backendRef: {kind: MeshService, name: backend, port: 3002}}
  - {port: 10003, backendRef: {kind: MeshService, name: backend, port: 3003}}
  - {port: 10004, backendRef: {kind: MeshService, name: backend, port: 3004}}
`

var protocols = []string{"http", "http2", "grpc", "tcp"}

// meshDefaults are what a new Mesh gets.
func meshDefaults(skip ...string) []*mesh.Resource {
	m := resource(mesh.KindMesh, "", "default", &meshv1.Mesh{SkipCreatingInitialPolicies: skip})
	return defaults.Policies(m)
}

// backends are what web-1 has for a port of backend.
type backends struct {
	t     *testing.T
	table *delta.Table
}

// withPolicies adds policies: each is "Kind name", a colon and the spec's fields.
func withPolicies(t *testing.T, base []*mesh.Resource, policies ...string) backends {
	t.Helper()
	text := fourPorts
	for _, p := range policies {
		head, spec, _ := strings.Cut(p, ":")
		kind, name, _ := strings.Cut(head, " ")
		text += fmt.Sprintf("---\ntype: %s\nmesh: default\nname: %s\nspec: {%s}\n", kind, name, spec)
	}
	b := backends{t, compileText(t, []byte(text), base...)}
	envoyValidates(t, b.table)
	return b
}

func (b backends) name(protocol string) string { return "kri_msvc_default_east__backend_" + protocol }

func (b backends) cluster(protocol string) *clusterv3.Cluster {
	b.t.Helper()
	r := b.table.Lookup(delta.TypeCluster, b.name(protocol))
	if r == nil {
		b.t.Fatalf("no cluster for %s", protocol)
	}
	return message(b.t, r).(*clusterv3.Cluster)
}

func (b backends) retry(protocol string) *routev3.RetryPolicy {
	b.t.Helper()
	return message(b.t, b.table.Lookup(delta.TypeRoute,
		b.name(protocol))).(*routev3.RouteConfiguration).VirtualHosts[0].GetRetryPolicy()
}

func (b backends) attempts() uint32 {
	b.t.Helper()
	l := message(b.t, b.table.Lookup(delta.TypeListener, b.name("tcp"))).(*listenerv3.Listener)
	p := &tcpv3.TcpProxy{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(p); err != nil {
		b.t.Fatal(err)
	}
	return p.GetMaxConnectAttempts().GetValue()
}

func toAll(conf string) string { return "to: [{targetRef: {kind: Mesh}, default: {" + conf + "}}]" }

// TestDefaultsAreBuiltIn: the default MeshCircuitBreaker and MeshRetry of a new Mesh say what holds
// without them, so that a mesh made without defaults fails over as well as one with.
func TestDefaultsAreBuiltIn(t *testing.T) {
	with, without := withPolicies(t, meshDefaults("MeshTimeout")), withPolicies(t, nil)
	if len(meshDefaults("MeshTimeout")) != 2 {
		t.Fatal("not the two defaults")
	}
	compareTables(t, "adding the defaults", mesh.Key{}, with.table, without.table)
}

func check(c *clusterv3.Cluster) string {
	if len(c.HealthChecks) == 0 {
		return ""
	}
	h := c.HealthChecks[0]
	switch {
	case h.GetHttpHealthCheck() != nil:
		return "HTTP"
	case h.GetGrpcHealthCheck() != nil:
		return "gRPC"
	}
	return "TCP"
}

// TestHealthCheckByProtocol: a port is checked by the section of its protocol, or by TCP if that
// section is disabled.
func TestHealthCheckByProtocol(t *testing.T) {
	for _, tc := range []struct {
		name, conf string
		want       [4]string
	}{
		{"no check without a section", "http: {}", [4]string{"HTTP", "HTTP", "", ""}},
		{"disabled sections fall back to TCP", "http: {disabled: true}, grpc: {disabled: true}, tcp: {}",
			[4]string{"TCP", "TCP", "TCP", "TCP"}},
		{"each its own", "http: {}, grpc: {}, tcp: {}", [4]string{"HTTP", "HTTP", "gRPC", "TCP"}},
		{"absent is not disabled", "tcp: {}", [4]string{"", "", "", "TCP"}},
		{"grpc does not fall back to http", "http: {}, grpc: {disabled: true}",
			[4]string{"HTTP", "HTTP", "", ""}},
		{"all disabled", "http: {disabled: true}, grpc: {disabled: true}, tcp: {disabled: true}",
			[4]string{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := withPolicies(t, meshDefaults(), "MeshHealthCheck a:"+toAll(tc.conf))
			for i, p := range protocols {
				if got := check(b.cluster(p)); got != tc.want[i] {
					t.Errorf("%s: %q, want %q", p, got, tc.want[i])
				}
			}
		})
	}
}

// TestHealthCheckStarts: the interval holds also before the first request.
func TestHealthCheckStarts(t *testing.T) {
	h := withPolicies(t, nil,
		"MeshHealthCheck a:"+toAll("interval: 7s, http: {}")).cluster("http").HealthChecks[0]
	if h.GetNoTrafficInterval().AsDuration() != 7*time.Second ||
		h.GetTimeout().AsDuration() != 15*time.Second || h.GetUnhealthyThreshold().GetValue() != 5 ||
		h.GetHealthyThreshold().GetValue() != 1 || h.GetHttpHealthCheck().GetPath() != "/" {
		t.Errorf("%v", h)
	}
}

// TestBreakerVectors: outlier detection and limits of a policy, and what is left of the default.
func TestBreakerVectors(t *testing.T) {
	detect := func(s string) string { return toAll("outlierDetection: {" + s + "}") }
	b := withPolicies(t, meshDefaults(),
		"MeshCircuitBreaker zzz:"+detect("detectors: {totalFailures: {consecutive: 5}}"))
	o := b.cluster("http").GetOutlierDetection()
	if o.GetConsecutive_5Xx().GetValue() != 5 || o.GetEnforcingConsecutive_5Xx().GetValue() != 100 {
		t.Errorf("the one detector that is given: %v", o)
	}
	for name, v := range map[string]uint32{"gateway": o.GetEnforcingConsecutiveGatewayFailure().GetValue(),
		"local":            o.GetEnforcingConsecutiveLocalOriginFailure().GetValue(),
		"success":          o.GetEnforcingSuccessRate().GetValue(),
		"local success":    o.GetEnforcingLocalOriginSuccessRate().GetValue(),
		"percentage":       o.GetEnforcingFailurePercentage().GetValue(),
		"local percentage": o.GetEnforcingFailurePercentageLocalOrigin().GetValue()} {
		if v != 0 {
			t.Errorf("%s is enforced, and is not given", name)
		}
	}
	// Ejection takes at least one instance: ten percent of two is none.
	if o.GetMaxEjectionPercent().GetValue() != 10 || !o.GetAlwaysEjectOneHost().GetValue() {
		t.Errorf("one of two cannot be ejected: %v", o)
	}
	o = withPolicies(t, nil, "MeshCircuitBreaker a:"+
		detect("maxEjectionPercent: 0, detectors: {totalFailures: "+
			"{consecutive: 5}}")).cluster("http").GetOutlierDetection()
	if o.GetAlwaysEjectOneHost().GetValue() || o.GetMaxEjectionPercent() == nil ||
		o.GetMaxEjectionPercent().GetValue() != 0 {
		t.Errorf("0 percent ejects: %v", o)
	}

	o = withPolicies(t, meshDefaults(),
		"MeshCircuitBreaker a:"+
			detect(`detectors: {successRate: {standardDeviationFactor: "1.9"}}`)).cluster(
		"http").GetOutlierDetection()
	if o.GetSuccessRateStdevFactor().GetValue() != 1900 || o.GetEnforcingSuccessRate().GetValue() != 100 {
		t.Errorf("success rate: %v", o)
	}

	// A person's policy beats the default's, whatever its name.
	b = withPolicies(t, meshDefaults(),
		"MeshCircuitBreaker zzz:"+toAll("connectionLimits: {maxConnections: 7, maxConnectionPools: 9}"))
	l := b.cluster("http").GetCircuitBreakers().GetThresholds()[0]
	if l.GetMaxConnections().GetValue() != 7 || l.GetMaxConnectionPools().GetValue() != 9 ||
		l.GetMaxRequests().GetValue() != 1024 || !l.GetTrackRemaining() {
		t.Errorf("limits: %v", l)
	}
	if o := b.cluster("http").GetOutlierDetection(); o.GetConsecutiveGatewayFailure().GetValue() != 3 {
		t.Errorf("limits took the ejection away: %v", o)
	}

	// Decision 12.20.
	if o := withPolicies(t, meshDefaults(),
		"MeshCircuitBreaker a:"+detect("disabled: true")).cluster("http").GetOutlierDetection(); o != nil {
		t.Errorf("disabled: %v", o)
	}
	// The breaker's panic threshold beats that of the health check.
	c := withPolicies(t, nil, "MeshHealthCheck a:"+toAll("healthyPanicThreshold: 20, http: {}"),
		"MeshCircuitBreaker a:"+
			detect("healthyPanicThreshold: 0, detectors: {totalFailures: {}}")).cluster("http")
	if v := c.GetCommonLbConfig().GetHealthyPanicThreshold(); v == nil || v.GetValue() != 0 {
		t.Errorf("panic threshold: %v", v)
	}
}

// TestRetryVectors: conditions and counts of retries by protocol, and where retries go.
func TestRetryVectors(t *testing.T) {
	elsewhere := func(t *testing.T, p *routev3.RetryPolicy) {
		t.Helper()
		if len(p.GetRetryHostPredicate()) != 1 ||
			p.GetRetryHostPredicate()[0].GetName() != "envoy.retry_host_predicates.previous_hosts" ||
			p.GetRetryPriority() == nil || p.GetHostSelectionRetryMaxAttempts() != 5 {
			t.Errorf("retries return to the instance that failed: %v", p)
		}
	}
	// The conditions of retryOn are added to those that failover without a policy needs.
	b := withPolicies(t, meshDefaults(), `MeshRetry a:`+toAll(`http: {retryOn: ["503", HttpMethodGet]}`))
	p := b.retry("http")
	conditions := "gateway-error,connect-failure,refused-stream,reset-before-request,retriable-status-codes"
	if p.GetRetryOn() != conditions ||
		len(p.GetRetriableStatusCodes()) != 1 ||
		p.GetRetriableStatusCodes()[0] != 503 || p.GetRetriableRequestHeaders()[0].GetName() != ":method" ||
		p.GetRetriableRequestHeaders()[0].GetStringMatch().GetExact() != "GET" {
		t.Errorf("conditions of retryOn: %v", p)
	}
	elsewhere(t, p)
	if q := b.retry("http2"); !proto.Equal(p, q) {
		t.Errorf("http2 does not retry as http: %v", q)
	}

	b = withPolicies(t, meshDefaults())
	for _, protocol := range []string{"http", "http2", "grpc"} {
		p := b.retry(protocol)
		if p.GetNumRetries().GetValue() != 5 ||
			p.GetRetryBackOff().GetBaseInterval().AsDuration() != 25*time.Millisecond ||
			p.GetRetryBackOff().GetMaxInterval().AsDuration() != 250*time.Millisecond {
			t.Errorf("by default %s has %v", protocol, p)
		}
		elsewhere(t, p)
	}
	if b.attempts() != 5 {
		t.Errorf("by default: %d attempts", b.attempts())
	}

	b = withPolicies(t, meshDefaults(),
		"MeshRetry a:"+toAll("http: {numRetries: 0}, grpc: {retryOn: [Canceled]}, tcp: "+
			"{maxConnectAttempt: 2}"))
	if p := b.retry("http"); p != nil {
		t.Errorf("0 retries: %v", p)
	}
	if p := b.retry("grpc"); p.GetRetryOn() != "cancelled" || p.GetNumRetries().GetValue() != 5 {
		t.Errorf("conditions of grpc: %v", p)
	}
	if b.attempts() != 2 {
		t.Errorf("%d attempts", b.attempts())
	}
	// Who says where retries go, has it.
	b = withPolicies(t, meshDefaults(),
		"MeshRetry a:"+toAll("http: {hostSelection: [{predicate: OmitPreviousPriorities, "+
			"updateFrequency: 1}], "+
			"hostSelectionMaxAttempts: 2}"))
	if p := b.retry("http"); len(p.GetRetryHostPredicate()) != 0 || p.GetRetryPriority() == nil ||
		p.GetHostSelectionRetryMaxAttempts() != 2 {
		t.Errorf("host selection: %v", p)
	}
	// Merged, they make a pause that Envoy would reject: the default's longest is shorter.
	p = withPolicies(t, meshDefaults(),
		"MeshRetry a:"+toAll("http: {backOff: {baseInterval: 1s}}")).retry("http")
	if p.GetRetryBackOff().GetMaxInterval().AsDuration() != time.Second {
		t.Errorf("back-off: %v", p)
	}
	p = withPolicies(t, nil, "MeshRetry a:"+toAll("http: {backOff: {maxInterval: 1s}}")).retry("http")
	if p.GetRetryBackOff().GetBaseInterval().AsDuration() != 25*time.Millisecond ||
		p.GetNumRetries().GetValue() != 1 {
		t.Errorf("back-off: %v", p)
	}
}

// TestPartsAreApart: a policy recomputes only the part of the output that it is about.
func TestPartsAreApart(t *testing.T) {
	const services = 5
	w := newWorld(t)
	rs := []*mesh.Resource{testMesh("STRICT")}
	var calls []string
	for i := range services {
		calls = append(calls, fmt.Sprintf("svc-%d", i))
		rs = append(rs, testService(testZone, calls[i], 8080))
	}
	dp := testDataplane("web-1", "10.0.0.1", "web", 8080, calls...)
	w.put(append(rs, dp)...)
	w.open(dp.Key)
	all := &meshv1.TargetRef{Kind: "Mesh"}
	retry := func(n uint32) *mesh.Resource {
		return resource(mesh.KindMeshRetry, "", "p", &meshv1.MeshRetry{To: []*meshv1.MeshRetry_To{{
			TargetRef: all,
			Default:   &meshv1.MeshRetry_Conf{Http: &meshv1.MeshRetry_Http{NumRetries: &n}},
		}}})
	}
	breaker := func(n uint32) *mesh.Resource {
		return resource(mesh.KindMeshCircuitBreaker, "", "p",
			&meshv1.MeshCircuitBreaker{To: []*meshv1.MeshCircuitBreaker_To{{
				TargetRef: all,

				Default: &meshv1.MeshCircuitBreaker_Conf{
					ConnectionLimits: &meshv1.MeshCircuitBreaker_ConnectionLimits{MaxRequests: &n}},
			}}})
	}
	check := func(n uint32) *mesh.Resource {
		return resource(mesh.KindMeshHealthCheck, "", "p",
			&meshv1.MeshHealthCheck{To: []*meshv1.MeshHealthCheck_To{{
				TargetRef: all,
				Default: &meshv1.MeshHealthCheck_Conf{
					HealthyThreshold: &n,
					Http:             &meshv1.MeshHealthCheck_Http{},
				},
			}}})
	}
	headers := func(n uint32) *mesh.Resource {
		return resource(mesh.KindMeshTimeout, "", "p", &meshv1.MeshTimeout{To: []*meshv1.MeshTimeout_To{{
			TargetRef: all,

			Default: &meshv1.MeshTimeout_Conf{Http: &meshv1.MeshTimeout_Http{
				RequestHeadersTimeout: durationpb.New(time.Duration(n) * time.Second),
			}},
		}}})
	}
	for _, tc := range []struct {
		name, part string
		policy     func(uint32) *mesh.Resource
	}{
		{"MeshRetry", "routes", retry}, {"MeshCircuitBreaker", "cluster", breaker},
		{"MeshHealthCheck", "cluster", check}, {"MeshTimeout of headers", "listener", headers},
	} {
		w.put(tc.policy(2))
		got := w.computes(func() { w.put(tc.policy(3)) })
		for _, part := range []string{"cluster", "endpoints", "routes", "listener"} {
			want := uint64(0)
			if part == tc.part {
				want = services
			}
			if got[part] != want {
				t.Errorf("%s: %d of %s made, want %d", tc.name, got[part], part, want)
			}
		}
		for _, typ := range []delta.Type{delta.TypeCluster, delta.TypeRoute, delta.TypeListener} {
			for r := range w.table(dp.Key).All(typ) {
				blamed := strings.Contains(fmt.Sprint(r.Cause), fmt.Sprint(tc.policy(3).Key))
				about := strings.HasPrefix(tc.part, typ.String()) && strings.Contains(r.Name, "svc-")
				if blamed != about {
					t.Errorf("%s: %s %s is blamed on it: %t", tc.name, typ, r.Name, blamed)
				}
			}
		}
	}
}
