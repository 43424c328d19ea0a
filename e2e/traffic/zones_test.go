package traffic

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

const eu = "eu-west"

// TestZones: one service over two zones, with mTLS and an ingress; the caller's own zone comes
// first, as the policy says.
func TestZones(t *testing.T) {
	w := meshtest.Start(t, us, eu)
	w.Apply(t, strict)
	const (
		global  = "MeshMultiZoneService/flights"
		written = "MeshMultiZoneService/global-flight-search:80"
		derived = "MeshMultiZoneService/derived:80"
		untold  = "MeshMultiZoneService/untold:80"
	)
	add := func(zone, name string) *meshtest.Workload {
		return w.Add(meshtest.Spec{
			Zone:    zone,
			Name:    name,
			Service: "flights",
			Tags:    map[string]string{"app": "flight-search"},
		})
	}
	near := []*meshtest.Workload{add(us, "near-1"), add(us, "near-2")}
	far := add(eu, "far-1")
	w.Ingress(eu)
	w.Apply(t, `
type: MeshMultiZoneService
mesh: default
name: flights
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: flights}}}
  ports: [{port: 8080, appProtocol: http}]
`)
	web := w.Add(meshtest.Spec{
		Zone:      us,
		Name:      "web",
		Service:   "web",
		Outbounds: []string{global, written, derived, untold},
	})
	web.Await(t, global)
	call := func(destination string, n int) map[string]int {
		return tally(web.Many(n, 4, func(int) meshtest.Result { return web.Get(destination) }))
	}

	// Services of the other zone may select by what is not written: the label of a Dataplane's name, and
	// the tag of its zone. Callers reach them as they reach all others.
	t.Run("derived labels", func(t *testing.T) {
		for name, selector := range map[string]string{
			"derived": "{dataplaneLabels: {matchLabels: {kuma.io/display-name: far-1}}}",
			"untold":  "{dataplaneTags: {app: flight-search, kuma.io/zone: " + eu + "}}",
		} {
			w.ApplyAt(t, eu, fmt.Sprintf("type: MeshService\nmesh: default\nname: %s\nspec: {selector: %s, "+
				"ports: [{port: 80, targetPort: 8080, appProtocol: http}]}\n", name, selector))
			w.Apply(t, fmt.Sprintf("type: MeshMultiZoneService\nmesh: default\nname: %s\nspec: {selector: "+
				"{meshService: {matchLabels: {kuma.io/display-name: %s}}}, "+
				"ports: [{port: 80, appProtocol: http}]}\n", name, name))
		}
		for _, destination := range []string{derived, untold} {
			web.Await(t, destination)
			if got := call(destination, 20); got["far-1"] != 20 {
				t.Errorf("%s: the one instance of the other zone should answer: %v", destination, got)
			}
		}
	})

	t.Run("scenario 02", func(t *testing.T) {
		for _, zone := range []string{us, eu} {
			w.ApplyAt(t, zone,
				"type: MeshService\nmesh: default\nname: flight-search\nspec: {selector: "+
					"{dataplaneTags: {app: "+
					"flight-search}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}\n")
		}
		_, warnings := w.Apply(t, scenario(t, "02-multi-zone-service"))
		if !strings.Contains(strings.Join(warnings, "\n"), "targetPort") {
			t.Errorf("targetPort should be warned of: %q", warnings)
		}
		web.Await(t, written)
		if got := call(written, 20); got["near-1"]+got["near-2"] != 20 {
			t.Errorf("the own zone's instances should answer: %v", got)
		}
		for _, x := range near {
			x.Stop()
		}
		meshtest.Eventually(t, "the other zone answers behind the same name", func() (bool, string) {
			got := call(written, 20)
			return got["far-1"] == 20, fmt.Sprint(got)
		})
		for _, x := range near {
			x.Start(t)
		}
	})

	t.Run("weights", func(t *testing.T) {
		w.Apply(t, `
type: MeshHTTPRoute
mesh: default
name: split
spec:
  to:
  - targetRef: {kind: MeshMultiZoneService, name: flights}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default:
        backendRefs:
        - {kind: MeshMultiZoneService, name: flights, port: 8080, weight: 80}
        - {kind: MeshService, name: web, port: 8080, weight: 20}
`)
		got := call(global, 1000)
		chiSquared(t, map[string]int{"flights": got["near-1"] + got["near-2"], "web": got["web"]},
			map[string]float64{"flights": 0.8, "web": 0.2})
	})

	t.Run("thresholds", func(t *testing.T) {
		ill := map[*meshtest.Workload]*atomic.Bool{}
		for _, x := range append([]*meshtest.Workload{far}, near...) {
			ill[x] = &atomic.Bool{}
			x.Handle(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/healthz" && ill[x].Load() {
					w.WriteHeader(503)
					return
				}
				x.Echo(w, r)
			})
		}
		w.Apply(t, `
type: MeshHealthCheck
mesh: default
name: flights
spec: {to: [{targetRef: {kind: MeshMultiZoneService, name: flights}, default: {`+often+
			`http: {path: /healthz}}}]}
`)
		failover := func(t *testing.T, conf string) {
			w.Apply(t, `
type: MeshLoadBalancingStrategy
mesh: default
name: flights
spec:
  to:
  - targetRef: {kind: MeshMultiZoneService, name: flights}
    default: {localityAwareness: {crossZone: {`+conf+`}}}
`)
		}
		spills := func(t *testing.T, what string, low, high int) {
			t.Helper()
			meshtest.Eventually(t, what, func() (bool, string) {
				got := call(global, 200)
				if got["near-1"]+got["near-2"]+got["far-1"] != 200 {
					t.Errorf("a request failed: %v", got)
				}
				return got["far-1"] >= low && got["far-1"] <= high, fmt.Sprint(got)
			})
		}
		failover(t, "failover: [{to: {type: Only, zones: [eu-west]}}], failoverThreshold: {percentage: 40}")
		spills(t, "all are well, and none goes abroad", 0, 0)
		ill[near[0]].Store(true)
		meshtest.Eventually(t, "the ill one gets nothing", func() (bool, string) {
			got := call(global, 40)
			return got["near-1"] == 0, fmt.Sprint(got)
		})
		spills(t, "a half is above 40 %: none goes abroad", 0, 0)
		failover(t, "failover: [{to: {type: Only, zones: [eu-west]}}], failoverThreshold: {percentage: 100}")
		spills(t, "below 100 %: half goes abroad", 70, 130)
		ill[near[1]].Store(true)
		spills(t, "none is well: all goes abroad", 200, 200)
		ill[near[0]].Store(false)
		ill[near[1]].Store(false)
		spills(t, "all are well again", 0, 0)
		failover(t, "failover: [{to: {type: None}}]")
		for _, x := range near {
			ill[x].Store(true)
		}
		meshtest.Eventually(t, "no zone is allowed: no remote instance answers", func() (bool, string) {
			before := far.Requests()
			got := call(global, 20)
			return far.Requests() == before && got["far-1"] == 0, fmt.Sprint(got)
		})
	})
}
