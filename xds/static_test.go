package xds

import (
	"fmt"
	"slices"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// TestStaticEqualsEngine: a Static that is moved along a random sequence of changes has the tables
// of a new engine, says exactly of whom they changed, and inspects what they are
// made of.
func TestStaticEqualsEngine(t *testing.T) {
	first, last := uint64(1), walks(uint64(30))
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for n := first; n <= last; n++ {
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			w := newWorld(t)
			d := newDice(n)
			followed := map[mesh.Key]*watch{}
			s := NewStatic(testZone, replica.View{})
			before := map[mesh.Key]*delta.Table{}
			view := replica.View{}
			for range *steps {
				what := d.step(w, followed)
				changed := s.Apply(w.view, difference(view, w.view))
				view = w.view
				fresh := NewStatic(testZone, view)
				for k := range d.live {
					if k.Kind != mesh.KindDataplane && k.Kind != mesh.KindZoneIngress {
						continue
					}
					got, errs := s.Table(k)
					want, _ := fresh.Table(k)
					if len(errs) > 0 {
						t.Fatalf("after %s: %v", what, errs)
					}
					if _, ok := view.Get(k); !ok || want == nil {
						continue // one that is gone keeps what it had
					}
					compareTables(t, what, k, got, want)
					old := before[k]
					if old != nil && slices.Contains(changed, k) == (old == got) {
						t.Fatalf("after %s: %s is said to have changed: %t", what, k, old == got)
					}
					before[k] = got
					checkInspection(t, what, s, k, got)
				}
			}
			for k, f := range followed {
				f.Close()
				_ = k
			}
		})
	}
}

// checkInspection compares what is inspected with what is encoded, where both say it.
func checkInspection(t *testing.T, what string, s *Static, k mesh.Key, table *delta.Table) {
	t.Helper()
	in, err := s.Inspect(k)
	if err != nil {
		t.Fatalf("after %s: inspect %s: %v", what, k, err)
	}
	if k.Kind != mesh.KindDataplane {
		if in != nil {
			t.Fatalf("after %s: %s is not a Dataplane, and is inspected", what, k)
		}
		return
	}
	clusters := 0
	seen := map[string]bool{}
	for _, o := range in.Outbounds {
		if table.Lookup(delta.TypeListener, o.Name) == nil {
			t.Fatalf("after %s: %s has no listener %s", what, k, o.Name)
		}
		for name, c := range o.Clusters {
			if !seen[name] {
				seen[name] = true
				clusters++
			}
			r := table.Lookup(delta.TypeEndpoint, name)
			if r == nil {
				t.Fatalf("after %s: %s has no endpoints %s", what, k, name)
			}
			n := 0
			for _, l := range message(t, r).(*endpointv3.ClusterLoadAssignment).GetEndpoints() {
				n += len(l.GetLbEndpoints())
			}
			if n != len(c.Endpoints) {
				t.Fatalf("after %s: %s has %d endpoints of %s, inspected %d", what, k, n, name,
					len(c.Endpoints))
			}
		}
		if len(o.Routes) > 0 {
			r := table.Lookup(delta.TypeRoute, o.Ref.KRI())
			if got := len(message(t,
				r).(*routev3.RouteConfiguration).GetVirtualHosts()[0].GetRoutes()); got != len(o.Routes) {
				t.Fatalf("after %s: %s has %d routes to %s, inspected %d", what, k, got, o.Ref.KRI(),
					len(o.Routes))
			}
		}
	}
	for r := range table.All(delta.TypeEndpoint) {
		if !seen[r.Name] {
			t.Fatalf("after %s: %s has endpoints %s that are not inspected", what, k, r.Name)
		}
	}
	for _, i := range in.Inbounds {
		if table.Lookup(delta.TypeListener, "self_inbound_dp_"+i.Section) == nil {
			t.Fatalf("after %s: %s has no listener of inbound %s", what, k, i.Section)
		}
	}
}
