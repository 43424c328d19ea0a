package xds

import (
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	httpfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	httplimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// policies decodes policies of mesh default and rejects bad ones.
func policies(t testing.TB, text string) []*mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	var out []*mesh.Resource
	for _, d := range docs {
		if _, err := validate.Resource(d.Resource); err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		out = append(out, d.Resource)
	}
	return out
}

// inboundLines says what Envoy does with what arrives at a listener: a line for each chain's limit
// of connections, fault, route, and what all routes share.
func inboundLines(t *testing.T, table *delta.Table, name string) []string {
	t.Helper()
	r := table.Lookup(delta.TypeListener, name)
	if r == nil {
		t.Fatalf("there is no listener %s", name)
	}
	var out []string
	limit := func(c map[string]*anypb.Any) string {
		a := c["envoy.filters.http.local_ratelimit"]
		if a == nil {
			return "as everybody"
		}
		l := &httplimitv3.LocalRateLimit{}
		if !a.MessageIs(l) {
			return "no limit"
		}
		unpack(t, a, l)
		return fmt.Sprintf("%d in %s", l.GetTokenBucket().GetMaxTokens(),
			l.GetTokenBucket().GetFillInterval().AsDuration())
	}
	for _, c := range message(t, r).(*listenerv3.Listener).FilterChains {
		for _, f := range c.Filters {
			if l := (&netlimitv3.LocalRateLimit{}); f.GetTypedConfig().MessageIs(l) {
				unpack(t, f.GetTypedConfig(), l)
				out = append(out,
					fmt.Sprintf("connections: %d in %s", l.GetTokenBucket().GetMaxTokens(),
						l.GetTokenBucket().GetFillInterval().AsDuration()))
			}
			h := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(h) {
				continue
			}
			unpack(t, f.GetTypedConfig(), h)
			for _, hf := range h.HttpFilters {
				a, to := hf.GetTypedConfig(), "all"
				if m := (&matchingv3.ExtensionWithMatcher{}); a.MessageIs(m) {
					unpack(t, a, m)
					a, to = m.GetExtensionConfig().GetTypedConfig(), "some"
				}
				if m := (&httpfaultv3.HTTPFault{}); a.MessageIs(m) {
					unpack(t, a, m)
					out = append(out,
						fmt.Sprintf("fault of %s to %s: %d %d", hf.Name, to, m.GetAbort().GetHttpStatus(),
							m.GetAbort().GetPercentage().GetNumerator()))
				}
			}
			vh := h.GetRouteConfig().GetVirtualHosts()[0]
			for _, route := range vh.Routes {
				var on []string
				for _, s := range route.GetMatch().GetFilterState() {
					on = append(on,
						s.GetStringMatch().GetSafeRegex().GetRegex()+s.GetStringMatch().GetExact())
				}
				out = append(out,
					fmt.Sprintf("route %s: %s, timeout %s", strings.Join(on, " and "),
						limit(route.TypedPerFilterConfig), route.GetRoute().GetTimeout().AsDuration()))
			}
			out = append(out, "everybody: "+limit(vh.TypedPerFilterConfig))
		}
	}
	return out
}

func unpack(t *testing.T, a *anypb.Any, m proto.Message) {
	t.Helper()
	if err := a.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
}

const sidecars = "spec:\n  targetRef: {kind: Mesh, proxyTypes: [Sidecar]}\n"

// TestInboundVectors: limits, faults and timeouts of inbounds as Envoy gets them. The limit of all
// callers is on the virtual host and not on their route, so that routes which differ in something
// else share the bucket. A rule with a condition keeps what the default policy sets for all callers.
func TestInboundVectors(t *testing.T) {
	for _, tc := range []struct {
		name, policies string
		want           []string
	}{
		{"disabled for one proxy", `
type: MeshRateLimit
name: zzz
` + sidecars + `  rules: [{default: {local: {http: {requestRate: {num: 5, interval: 10s}}}}}]
---
type: MeshRateLimit
name: aaa
spec:
  targetRef: {kind: Dataplane}
  rules: [{default: {local: {http: {disabled: true}}}}]
`, []string{"route : as everybody, timeout 15s", "everybody: as everybody"}},
		{"a limit of some callers", `
type: MeshRateLimit
name: a
` + sidecars + `  rules:
  - default: {local: {http: {requestRate: {num: 5, interval: 10s}}}}
  - matches:
    - {spiffeID: {type: Prefix, value: spiffe://default/a}}
    - {spiffeID: {type: Exact, value: spiffe://default/b}}
    default: {local: {http: {requestRate: {num: 50, interval: 10s}}}}
`, []string{"route (.*,)?spiffe://default/b(,.*)?: 50 in 10s, timeout 15s",
			"route (.*,)?spiffe://default/a(/[^,]*)?(,.*)?: 50 in 10s, timeout 15s",
			"route : as everybody, timeout 15s", "everybody: 5 in 10s"}},
		{"a named section by number", `
type: MeshRateLimit
name: a
spec:
  targetRef: {kind: Dataplane, sectionName: "8000"}
  rules: [{default: {local: {http: {requestRate: {num: 5, interval: 10s}}}}}]
`, []string{"route : as everybody, timeout 15s", "everybody: as everybody"}},
		{"a named section by name", `
type: MeshRateLimit
name: a
spec:
  targetRef: {kind: Dataplane, sectionName: http}
  rules:
  - default:
      local:
        http: {requestRate: {num: 5, interval: 10s}}
        tcp: {connectionRate: {num: 9, interval: 1m}}
`, []string{"connections: 9 in 1m0s", "route : as everybody, timeout 15s", "everybody: 5 in 10s"}},
		{"every fault acts", `
type: MeshFaultInjection
name: aaa
` + sidecars + `  rules: [{default: {http: [{abort: {httpStatus: 501, percentage: 10}}]}}]
---
type: MeshFaultInjection
name: zzz
` + sidecars + `  rules: [{default: {http: [{abort: {httpStatus: 502, percentage: "10"}}]}}]
`, []string{"fault of kri_mfi_default___zzz_ to all: 502 100000",
			"fault of kri_mfi_default___aaa_ to all: 501 100000",
			"route : as everybody, timeout 15s", "everybody: as everybody"}},
		{"a timeout of one caller", `
type: MeshTimeout
name: mesh-timeout-all-default
labels: {kuma.io/managed-by: meridian-defaults}
` + sidecars + `  from:
  - targetRef: {kind: Mesh}
    default:
      connectionTimeout: 10s
      idleTimeout: 2h
      http: {requestTimeout: 0s, streamIdleTimeout: 1h, maxStreamDuration: 0s}
---
type: MeshTimeout
name: a
spec:
  rules:
  - matches: [{spiffeID: {type: Exact, value: spiffe://default/b}}]
    default: {http: {requestTimeout: 3s}}
`, []string{"route (.*,)?spiffe://default/b(,.*)?: as everybody, timeout 3s",
			"route : as everybody, timeout 0s", "everybody: as everybody"}},
		{"a rule that says nothing of requests takes no route", `
type: MeshRateLimit
name: a
` + sidecars + `  rules:
  - matches: [{sni: {type: Exact, value: b}}]
    default: {local: {http: {disabled: true}, tcp: {disabled: true}}}
`, []string{"route : as everybody, timeout 15s", "everybody: as everybody"}},
		{"what differs from everybody's", `
type: MeshRateLimit
name: a
` + sidecars + `  rules:
  - default: {local: {http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 503}}}}
  - matches: [{spiffeID: {type: Exact, value: spiffe://default/b}}]
    default: {local: {http: {onRateLimit: {status: 429}}}}
`, []string{"route (.*,)?spiffe://default/b(,.*)?: 5 in 10s, timeout 15s",
			"route : as everybody, timeout 15s", "everybody: 5 in 10s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.put(append(policies(t, tc.policies), testMesh("STRICT"),
				testDataplane("web", "10.0.0.1", "web", 8000))...)
			k := testDataplane("web", "", "web", 1).Key
			w.e.SetIdentity(k, testIdentity)
			w.open(k)
			if diff := cmp.Diff(tc.want, inboundLines(t, w.table(k), "self_inbound_dp_http")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			envoyValidates(t, w.table(k))
		})
	}
}

// TestInboundPolicyConcernsItsInbounds: a policy of inbounds wakes the proxies that it selects, and
// of those only the inbounds it selects are recomputed; nothing that proxies share is looked at.
func TestInboundPolicyConcernsItsInbounds(t *testing.T) {
	for _, kind := range []struct{ name, conf, other string }{
		{"MeshRateLimit", "{local: {http: {requestRate: {num: 5, interval: 1s}}}}",
			"{local: {http: {requestRate: {num: 6, interval: 1s}}}}"},
		{"MeshFaultInjection", "{http: [{abort: {httpStatus: 500, percentage: 1}}]}",
			"{http: [{abort: {httpStatus: 500, percentage: 2}}]}"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			w := newWorld(t)
			w.put(testMesh("STRICT"), testService(testZone, "a", 8080), testService(testZone, "b", 8080),
				testDataplane("p", "10.0.0.1", "a", 8080, "a", "b"),
				testDataplane("q", "10.0.0.2", "b", 8080, "a", "b"))
			p, q := testDataplane("p", "", "a", 1).Key, testDataplane("q", "", "b", 1).Key
			w.open(p)
			w.open(q)
			for _, change := range []struct {
				what, conf string
				want       map[string]uint64
			}{
				{"a new policy", kind.conf,
					map[string]uint64{"head": 1, "match": 2, "caller_tags": 1, "inbound_policy": 1,
						"inbound": 1, "table": 1}},
				{"its content", kind.other,
					map[string]uint64{"head": 1, "inbound_policy": 1, "inbound": 1, "table": 1}},
				{"nothing", kind.other, map[string]uint64{"head": 1, "inbound_policy": 1}},
			} {
				before, other := w.table(p), w.table(q)
				got := w.computes(func() {
					w.put(policies(t,
						"type: "+kind.name+
							"\nname: x\nspec:\n  targetRef: {kind: Dataplane, name: p, "+
							"sectionName: http}\n  "+
							"rules: [{default: "+change.conf+"}]\n")...)
				})
				for query, n := range got {
					if n > change.want[query] {
						t.Errorf("%s: %s was computed %d times, want at most %d", change.what, query, n,
							change.want[query])
					}
				}
				if w.table(q) != other {
					t.Errorf("%s: the other proxy was notified", change.what)
				}
				now := w.table(p)
				if changed := now != before; changed != (change.what != "nothing") {
					t.Errorf("%s: the proxy was notified: %t", change.what, changed)
				}
				for _, typ := range delta.Types {
					for r := range now.All(typ) {
						if was := before.Lookup(typ, r.Name); was != r && r.Name != "self_inbound_dp_http" {
							t.Errorf("%s: %s %s was recomputed", change.what, typ, r.Name)
						}
					}
				}
			}
		})
	}
}
