package xds

import (
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func (d *dice) balancing() *mesh.Resource {
	header := func() []*meshv1.MeshLoadBalancingStrategy_HashPolicy {
		return []*meshv1.MeshLoadBalancingStrategy_HashPolicy{{
			Type:   "Header",
			Header: &meshv1.MeshLoadBalancingStrategy_HashHeader{Name: d.of("x-a", "x-b")},
		}}
	}
	if d.IntN(4) == 0 {
		return resource(mesh.KindMeshLoadBalancingStrategy, "", d.of("l1", "l2"),
			&meshv1.MeshLoadBalancingStrategy{
				TargetRef: d.top(),
				To: []*meshv1.MeshLoadBalancingStrategy_To{{
					TargetRef: &meshv1.TargetRef{Kind: "MeshHTTPRoute", Name: d.of("r1", "r2")},
					Default:   &meshv1.MeshLoadBalancingStrategy_Conf{HashPolicies: header()},
				}},
			})
	}
	spec := &meshv1.MeshLoadBalancingStrategy{TargetRef: d.top()}
	for range 1 + d.IntN(2) {
		c := &meshv1.MeshLoadBalancingStrategy_Conf{}
		if d.half() {
			c.LoadBalancer = &meshv1.MeshLoadBalancingStrategy_LoadBalancer{Type: d.of("RoundRobin",
				"LeastRequest", "RingHash", "Random", "Maglev")}
		}
		if d.half() {
			c.HashPolicies = header()
		}
		if a := (&meshv1.MeshLoadBalancingStrategy_LocalityAwareness{}); d.IntN(4) > 0 {
			c.LocalityAwareness = a
			if d.IntN(3) == 0 {
				a.Disabled = new(d.half())
			}
			if d.half() {
				a.LocalZone = &meshv1.MeshLoadBalancingStrategy_LocalZone{
					AffinityTags: []*meshv1.MeshLoadBalancingStrategy_AffinityTag{{Key: d.of("node", "app")}}}
			}
			if d.half() {
				a.CrossZone = &meshv1.MeshLoadBalancingStrategy_CrossZone{
					Failover: []*meshv1.MeshLoadBalancingStrategy_Failover{
						{To: &meshv1.MeshLoadBalancingStrategy_FailoverTo{
							Type:  d.of("Only", "AnyExcept"),
							Zones: []string{d.of("west", "north")},
						}},
						{
							From: &meshv1.MeshLoadBalancingStrategy_FailoverFrom{Zones: []string{d.zone()}},
							To:   &meshv1.MeshLoadBalancingStrategy_FailoverTo{Type: d.of("Any", "None")},
						}}}
			}
		}
		spec.To = append(spec.To, &meshv1.MeshLoadBalancingStrategy_To{TargetRef: d.to(), Default: c})
	}
	return resource(mesh.KindMeshLoadBalancingStrategy, "", d.of("l1", "l2", "l3"), spec)
}

func (d *dice) tcpRoute() *mesh.Resource {
	to := &meshv1.MeshTCPRoute_To{TargetRef: d.to()}
	if to.TargetRef.Kind == "Mesh" {
		to.TargetRef = &meshv1.TargetRef{Kind: "MeshService", Name: d.service()}
	}
	var refs []*meshv1.BackendRef
	for range d.IntN(3) {
		refs = append(refs, &meshv1.BackendRef{
			Kind:   "MeshService",
			Name:   d.service(),
			Port:   new(uint32(8080)),
			Weight: new(uint32(d.IntN(3))),
		})
	}
	if len(refs) > 0 {
		to.Rules = []*meshv1.MeshTCPRoute_Rule{{Default: &meshv1.MeshTCPRoute_Conf{BackendRefs: refs}}}
	}
	return resource(mesh.KindMeshTCPRoute, "", d.of("tr1", "tr2"), &meshv1.MeshTCPRoute{
		TargetRef: d.top(),
		To:        []*meshv1.MeshTCPRoute_To{to},
	})
}
