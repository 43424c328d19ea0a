package xds

import (
	"fmt"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// vectorBase is the destination and the client that the tests of balancing and TCP routes share.
const vectorBase = `# proxy web
type: Mesh
name: default
---
type: MeshService
mesh: default
name: backend
spec:
  selector: {dataplaneTags: {kuma.io/service: backend}}
  ports: [{port: 3001, targetPort: 3001, name: main, appProtocol: http}]
---
type: MeshService
mesh: default
name: db
spec:
  selector: {dataplaneTags: {kuma.io/service: db}}
  ports: [{port: 3001, targetPort: 3001, name: main, appProtocol: tcp}]
---
type: Dataplane
mesh: default
name: backend-1
networking: {address: 10.0.0.1, inbound: [{port: 3001, tags: {kuma.io/service: backend, node: n1, rack: r1}}]}
---
type: Dataplane
mesh: default
name: web
labels: {app: web}
networking:
  address: 10.0.0.5
  inbound: [{port: 80, tags: {kuma.io/service: web, node: n1, rack: r1}}]
  outbound: [{port: 10001, backendRef: {kind: MeshService, name: backend, port: 3001}}]
---
`

const backendKRI = "kri_msvc_default_east__backend_main"

func lookup[M any](t *testing.T, table *delta.Table, typ delta.Type, name string) (m M) {
	t.Helper()
	r := table.Lookup(typ, name)
	if r == nil {
		t.Fatalf("no %s %s", typ, name)
	}
	return message(t, r).(M)
}

// filters are those of a listener of one chain, by the last part of their names.
func filters(t *testing.T, table *delta.Table, name string) []string {
	t.Helper()
	l := lookup[*listenerv3.Listener](t, table, delta.TypeListener, name)
	if len(l.FilterChains) != 1 {
		t.Fatalf("%d chains", len(l.FilterChains))
	}
	var out []string
	for _, f := range l.FilterChains[0].Filters {
		out = append(out, f.Name[strings.LastIndex(f.Name, ".")+1:])
	}
	return out
}

func hashed(a *routev3.RouteAction) []string {
	var out []string
	for _, h := range a.GetHashPolicy() {
		out = append(out, h.GetHeader().GetHeaderName())
	}
	return out
}

// TestVectorsOfBalancingAndTCP: what policies of load balancing and TCP routes make of Envoy's
// resources.
func TestVectorsOfBalancingAndTCP(t *testing.T) {
	tcpRoute := func(refs string) string {
		return "type: MeshTCPRoute\nmesh: default\nname: tcp\nspec: {to: [{targetRef: {kind: MeshService, " +
			"name: backend}, rules: [{default: {backendRefs: [" + refs + "]}}]}]}\n---\n"
	}
	strategy := func(name, kind, conf string) string {
		return "type: MeshLoadBalancingStrategy\nmesh: default\nname: " + name +
			"\nspec: {to: [{targetRef: {kind: " + kind + "}, default: " + conf + "}]}\n---\n"
	}
	const httpRoute = "type: MeshHTTPRoute\nmesh: default\nname: route\nspec: {to: [{targetRef: {kind: " +
		"MeshService, name: backend}, rules: [{matches: [{path: {type: Exact, value: /a}}], default: " +
		"{backendRefs: [{kind: MeshService, name: backend, port: 3001}]}}]}]}\n---\n"
	for _, tc := range []struct {
		name, policies string
		check          func(t *testing.T, table *delta.Table)
	}{
		{"16", tcpRoute("{kind: MeshService, name: db, port: 3001}"), func(t *testing.T, table *delta.Table) {
			if diff := cmp.Diff([]string{"tcp_proxy"}, filters(t, table, backendKRI)); diff != "" {
				t.Error(diff)
			}
			if table.Lookup(delta.TypeRoute, backendKRI) != nil {
				t.Error("there are routes that no client asks for")
			}
		}},
		{"17", tcpRoute("{kind: MeshService, name: db, port: 3001}") + httpRoute,
			func(t *testing.T, table *delta.Table) {
				if diff := cmp.Diff([]string{"http_connection_manager"},
					filters(t, table, backendKRI)); diff != "" {
					t.Error(diff)
				}
				if table.Lookup(delta.TypeCluster, "kri_msvc_default_east__db_main") != nil {
					t.Error("the MeshTCPRoute applies")
				}
			}},
		{"18", tcpRoute("{kind: MeshService, name: db, port: 3001, weight: 0}, {kind: MeshService, name: " +
			"backend, port: 3001, weight: 0}"), func(t *testing.T, table *delta.Table) {
			if got := filters(t, table, backendKRI); len(got) != 0 {
				t.Errorf("filters %v", got)
			}
		}},
		{"18 with references that find nothing",
			tcpRoute("{kind: MeshService, name: missing, port: 3001}"),
			func(t *testing.T, table *delta.Table) {
				if got := filters(t, table, backendKRI); len(got) != 0 {
					t.Errorf("filters %v", got)
				}
			}},
		{"31", strategy("s", "Mesh",
			"{localityAwareness: {localZone: {affinityTags: [{key: node}, {key: rack}]}}}"),
			func(t *testing.T, table *delta.Table) {
				e := lookup[*endpointv3.ClusterLoadAssignment](t, table, delta.TypeEndpoint, backendKRI)
				if len(e.Endpoints) != 1 || e.Endpoints[0].GetLoadBalancingWeight().GetValue() != 90 ||
					e.Endpoints[0].GetLocality().GetSubZone() != "node=n1" ||
					e.GetPolicy().GetOverprovisioningFactor().GetValue() != 200 {
					t.Errorf("%v", e)
				}
				c := lookup[*clusterv3.Cluster](t, table, delta.TypeCluster, backendKRI)
				if c.GetCommonLbConfig().GetLocalityWeightedLbConfig() == nil {
					t.Errorf("the cluster does not weight localities: %v", c.GetCommonLbConfig())
				}
			}},
		{"a threshold of 70 percent is a factor of 143",
			strategy("s", "Mesh",
				"{localityAwareness: {crossZone: {failover: [{to: {type: Any}}], failoverThreshold: "+
					"{percentage: 70}}}}"), func(t *testing.T, table *delta.Table) {
				e := lookup[*endpointv3.ClusterLoadAssignment](t, table, delta.TypeEndpoint, backendKRI)
				if got := e.GetPolicy().GetOverprovisioningFactor().GetValue(); got != 143 {
					t.Errorf("overprovisioning %d", got)
				}
			}},
		{"33", httpRoute + strategy("all", "Mesh",
			"{hashPolicies: [{type: Header, header: {name: x-mesh}}]}") +
			strategy("one", "MeshHTTPRoute, name: route",
				"{hashPolicies: [{type: Header, header: {name: x-route}}]}"),
			func(t *testing.T, table *delta.Table) {
				routes := lookup[*routev3.RouteConfiguration](t, table, delta.TypeRoute,
					backendKRI).VirtualHosts[0].Routes
				if len(routes) != 2 {
					t.Fatalf("%d routes", len(routes))
				}
				if diff := cmp.Diff([][]string{{"x-route"}, {"x-mesh"}},
					[][]string{hashed(routes[0].GetRoute()), hashed(routes[1].GetRoute())}); diff != "" {
					t.Error(diff)
				}
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := compileText(t, []byte(vectorBase+strings.TrimSuffix(tc.policies, "---\n")))
			tc.check(t, table)
			envoyValidates(t, table)
		})
	}
}

func strategyFor(service string, a *meshv1.MeshLoadBalancingStrategy_LocalityAwareness) *mesh.Resource {
	return resource(mesh.KindMeshLoadBalancingStrategy, "", "near-"+service,
		&meshv1.MeshLoadBalancingStrategy{To: []*meshv1.MeshLoadBalancingStrategy_To{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: service},
			Default:   &meshv1.MeshLoadBalancingStrategy_Conf{LocalityAwareness: a},
		}}})
}

func byNode() *meshv1.MeshLoadBalancingStrategy_LocalityAwareness {
	return &meshv1.MeshLoadBalancingStrategy_LocalityAwareness{
		LocalZone: &meshv1.MeshLoadBalancingStrategy_LocalZone{
			AffinityTags: []*meshv1.MeshLoadBalancingStrategy_AffinityTag{{Key: "node"}}}}
}

// TestAffinityShares: endpoints differ only as far as the tags that a policy names do. Callers with
// equal values share one node and one group; a tag that no policy names, or a destination of which
// none speaks, makes no difference.
func TestAffinityShares(t *testing.T) {
	w := newWorld(t)
	caller := func(i int) *mesh.Resource {
		r := testDataplane(fmt.Sprintf("web-%d", i), fmt.Sprintf("10.0.1.%d", i), "web", 80, "api", "other")
		tags := r.Spec.(*meshv1.Dataplane).Networking.Inbound[0].Tags
		tags["node"], tags["pod"] = fmt.Sprintf("n%d", i%2), fmt.Sprint(i)
		return r
	}
	instance := func(name, address, service, node string) *mesh.Resource {
		r := testDataplane(name, address, service, 8080)
		r.Spec.(*meshv1.Dataplane).Networking.Inbound[0].Tags["node"] = node
		return r
	}
	rs := []*mesh.Resource{testMesh("STRICT"), testService(testZone, "api", 8080),
		testService(testZone, "other", 8080),
		instance("api-0", "10.0.0.1", "api", "n0"), instance("api-1", "10.0.0.2", "api", "n1"),
		instance("other-0", "10.0.0.3", "other", "n0")}
	var watches []*watch
	for i := range 6 {
		rs = append(rs, caller(i))
	}
	w.put(rs...)
	for i := range 6 {
		watches = append(watches, w.open(caller(i).Key))
	}
	endpoints := func(i int, service string) *delta.Resource {
		return w.table(watches[i].key).Lookup(delta.TypeEndpoint, "kri_msvc_default_east__"+service+"_http")
	}
	cluster := func(i int, service string) *delta.Resource {
		return w.table(watches[i].key).Lookup(delta.TypeCluster, "kri_msvc_default_east__"+service+"_http")
	}
	outbound := func(i int) *delta.Segment { return w.table(watches[i].key).Segments[0] }

	before, beforeCluster := endpoints(0, "api"), cluster(0, "other")
	if outbound(0) != outbound(1) {
		t.Fatal("callers without a policy do not share")
	}
	w.put(strategyFor("api", byNode()))
	if endpoints(0, "api") == before || endpoints(0, "api") == endpoints(1, "api") ||
		endpoints(0, "api").Version == endpoints(1, "api").Version {
		t.Error("the policy has no effect")
	}
	if outbound(0) != outbound(2) || outbound(1) != outbound(3) {
		t.Error("callers with equal values of the named tag do not share their group")
	}
	if endpoints(0, "other") != endpoints(1, "other") {
		t.Error("a destination of which no policy speaks has two sets of endpoints")
	}
	if cluster(0, "other") != beforeCluster {
		t.Error("the cluster of a destination of which no policy speaks changed")
	}
	if cluster(0, "api") != cluster(1, "api") {
		t.Error("the cluster does not depend on the caller, but is not shared")
	}
	if got := fmt.Sprint(endpoints(0, "api").Cause); !strings.Contains(got, "near-api") {
		t.Errorf("endpoints are caused by %s", got)
	}

	// An endpoint's change computes its endpoints once for each value, and moves nothing but endpoints.
	clusters := cluster(0, "api")
	got := w.computes(func() {
		w.put(resource(mesh.KindDataplaneInsight, testZone, "api-0", &meshv1.ProxyInsight{State: "Lost"}))
	})
	for q, most := range map[string]uint64{"local_endpoints": 2, "endpoints": 2, "group": 2, "cluster": 0,
		"listener": 0, "routes": 0, "outbound_config": 0, "caller_tags": 0} {
		if got[q] > most {
			t.Errorf("an endpoint's health: %s was computed %d times, want at most %d", q, got[q], most)
		}
	}
	if got["endpoints"] != 2 || cluster(0, "api") != clusters {
		t.Errorf("an endpoint's health: %v", got)
	}

	// A tag that no policy names does not matter; one that a policy names moves the caller to
	// the others with its value.
	pod := caller(4)
	pod.Spec.(*meshv1.Dataplane).Networking.Inbound[0].Tags["pod"] = "else"
	if got := w.computes(func() { w.put(pod) }); got["group"]+got["endpoints"] > 0 {
		t.Errorf("a tag that no policy names: %v", got)
	}
	node := caller(4)
	node.Spec.(*meshv1.Dataplane).Networking.Inbound[0].Tags["node"] = "n1"
	if got := w.computes(func() { w.put(node) }); got["group"]+got["endpoints"] > 0 ||
		outbound(4) != outbound(1) {
		t.Errorf("a tag that a policy names: %v", got)
	}
	w.remove(strategyFor("api", nil).Key)
	if outbound(0) != outbound(1) || outbound(4) != outbound(0) {
		t.Error("without the policy the callers do not share again")
	}
}

// TestExtremes: what is valid but makes no sense, alone or after a merge, is still a configuration
// that a proxy takes.
func TestExtremes(t *testing.T) {
	const most = "4294967295"
	strategy := func(name, conf string) string {
		return "type: MeshLoadBalancingStrategy\nmesh: default\nname: " + name +
			"\nspec: {to: [{targetRef: {kind: Mesh}, default: " + conf + "}]}\n---\n"
	}
	route := func(kind, rule string) string {
		return "type: " + kind +
			"\nmesh: default\nname: r\nspec: {to: [{targetRef: {kind: MeshService, name: " +
			"backend}, rules: [{" + rule +
			"default: {backendRefs: [{kind: MeshService, name: backend, port: 3001, weight: " +
			"1000000}, {kind: " +
			"MeshService, name: backend, port: 3001, weight: 1000000}]}}]}]}\n---\n"
	}
	for _, tc := range []struct{ name, policies string }{
		{"choices and bias", strategy("a",
			"{loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: 100, "+
				"activeRequestBias: 100}}}")},
		{"a ring of one", strategy("a", "{loadBalancer: {type: RingHash, ringHash: {maxRingSize: 1}}}")},
		{"the largest ring", strategy("a",
			"{loadBalancer: {type: RingHash, ringHash: {minRingSize: 8000000, maxRingSize: 8000000}}}")},
		{"rings that cross in the merge",
			strategy("a", "{loadBalancer: {type: RingHash, ringHash: {minRingSize: 5000}}}") +
				strategy("b", "{loadBalancer: {type: RingHash, ringHash: {maxRingSize: 100}}}")},
		{"a table of two", strategy("a", "{loadBalancer: {type: Maglev, maglev: {tableSize: 2}}}")},
		{"locality weights", strategy("a",
			"{localityAwareness: {localZone: {affinityTags: [{key: node, weight: "+most+
				"}, {key: rack, weight: "+most+"}]}}}")},
		{"many tags", strategy("a",
			"{localityAwareness: {localZone: {affinityTags: ["+
				strings.TrimSuffix(strings.Repeat("{key: none}, ", 30), ", ")+", {key: node}]}}}")},
		{"a threshold of nearly nothing",
			strategy("a", "{localityAwareness: {crossZone: {failoverThreshold: {percentage: \"0.0001\"}}}}")},
		{"weights of requests", route("MeshHTTPRoute", "matches: [{path: {type: PathPrefix, value: /}}], ")},
		{"weights of connections", route("MeshTCPRoute", "")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			envoyValidates(t, compileText(t, []byte(vectorBase+strings.TrimSuffix(tc.policies, "---\n"))))
		})
	}
}
