package xds

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// What a MeshLoadBalancingStrategy says of localities makes endpoints differ between callers, yet
// only as far as it says: the endpoints of a port are one node for all callers with equal
// localities, and of a caller's tags only those that the policies name are looked at. Without such
// a policy the locality is empty and there is one node for all.

// callerTags are the values of a caller's tags that its policies name; the zero value if they name none.
type callerTags = ir.Shared[map[string]string]

// computePolicySummary is what a list of policies says beyond one destination.
func (q *queries) computePolicySummary(r *graph.Reader, l keyList) (compile.PolicySummary, error) {
	return compile.NewPolicySummary(q.policies(r, l, mesh.Key{}, compile.IsOutboundConfig)), nil
}

func (q *queries) computeCallerTags(r *graph.Reader, k mesh.Key) (callerTags, error) {
	m := q.match.Get(r, k)
	if m == nil {
		return callerTags{}, nil
	}
	named := q.policySummary.Get(r, m.to).CallerTags
	if len(named) == 0 {
		return callerTags{}, nil
	}
	i := q.instance.Get(r, k)
	values := map[string]string{}
	for _, t := range named {
		if v, ok := i.Value(t); ok {
			values[t] = v
		}
	}
	return ir.Share(values), nil
}

// endpointsFor is the node of a port's endpoints for callers with these tags, who must see the tags shown.
func (q *queries) endpointsFor(ref compile.Ref, conf outboundConfig, tags map[string]string,
	shown []string) endpointsKey {
	k := endpointsKey{ref: ref}
	var l compile.Locality
	if a, ok := conf.Endpoints.Awareness.Get(); ok {
		l, k.causes = compile.NewLocality(a, q.zone, tags), conf.endpoints
	}
	l.Shown = shown
	k.locality = l.Share()
	return k
}
