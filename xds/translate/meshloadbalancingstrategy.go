package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// What is not set of how the cluster chooses endpoints stays unset, so that Envoy's defaults hold.
func meshLoadBalancingStrategyCluster(out *clusterMessage, c *ir.Cluster) error {
	if c.Type != ir.ClusterEDS {
		return nil
	}
	b := c.Balancer
	u64 := func(v uint64) *wrapperspb.UInt64Value {
		if v == 0 {
			return nil
		}
		return wrapperspb.UInt64(v)
	}
	switch b.Algorithm {
	case ir.LeastRequest:
		out.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		cfg := &clusterv3.Cluster_LeastRequestLbConfig{}
		if b.Choices > 0 {
			cfg.ChoiceCount = u32(b.Choices)
		}
		if b.HasBias {
			cfg.ActiveRequestBias = &corev3.RuntimeDouble{
				DefaultValue: b.Bias,
				RuntimeKey:   "upstream.active_request_bias",
			}
		}
		if b.Choices > 0 || b.HasBias {
			out.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: cfg}
		}
	case ir.Random:
		out.LbPolicy = clusterv3.Cluster_RANDOM
	case ir.RingHash:
		out.LbPolicy = clusterv3.Cluster_RING_HASH
		cfg := &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: u64(b.MinRing),
			MaximumRingSize: u64(b.MaxRing),
		}
		if b.Murmur {
			cfg.HashFunction = clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
		}
		if b.MinRing > 0 || b.MaxRing > 0 || b.Murmur {
			out.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: cfg}
		}
	case ir.Maglev:
		out.LbPolicy = clusterv3.Cluster_MAGLEV
		if b.Table > 0 {
			out.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{
				MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: u64(b.Table)}}
		}
	}
	if c.LocalityWeighted {
		out.common().LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
	}
	return nil
}

func meshLoadBalancingStrategyEndpoints(out *endpointv3.ClusterLoadAssignment, e *ir.Endpoints) {
	if e.Overprovisioning > 0 {
		out.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: u32(e.Overprovisioning)}
	}
}

func meshLoadBalancingStrategyRoute(out *routev3.Route, r *ir.Route, _ *ir.RouteConfig) error {
	if list, ok := r.Hash.Get(); ok && out.GetRoute() != nil {
		a := out.GetRoute()
		a.HashPolicy = hashPolicies(list)
		if w := a.GetWeightedClusters(); w != nil {
			// The same hash chooses the side of a split, or a user would change sides at each request.
			w.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{
				UseHashPolicy: wrapperspb.Bool(true),
			}
		}
	}
	return nil
}

func hashPolicies(list []ir.HashPolicy) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	for _, h := range list {
		p := &routev3.RouteAction_HashPolicy{Terminal: h.Terminal}
		switch h.Source {
		case ir.HashHeader:
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{
				Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.Name}}
		case ir.HashCookie:
			c := &routev3.RouteAction_HashPolicy_Cookie{Name: h.Name, Path: h.Path}
			if h.HasTTL {
				c.Ttl = durationpb.New(h.TTL)
			}
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}
		case ir.HashSourceIP:
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
				ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}
		case ir.HashQuery:
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{
				QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.Name}}
		case ir.HashFilterState:
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_FilterState_{
				FilterState: &routev3.RouteAction_HashPolicy_FilterState{Key: h.Name}}
		}
		out = append(out, p)
	}
	return out
}
