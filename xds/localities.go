package xds

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// What a MeshLoadBalancingStrategy says of localities makes endpoints differ between callers, yet only as far as it says:
// the endpoints of a port are one node for all callers with equal localities, and of a caller's tags only those that the
// policies name are looked at. Without such a policy the locality is empty and there is one node for all.

// callerTags are the values of a caller's tags that its policies name; the zero value if they name none.
type callerTags = ir.Shared[map[string]string]

// computeNamedTags are the tags of callers that a list of policies names.
func (q *queries) computeNamedTags(r *reader, l keyList) ([]string, error) {
	return compile.AffinityTags(q.policies(r, l, func(k mesh.Kind) bool { return k == mesh.KindMeshLoadBalancingStrategy })), nil
}

func (q *queries) computeCallerTags(r *reader, k mesh.Key) (callerTags, error) {
	m := q.match.get(r, k)
	if m == nil {
		return callerTags{}, nil
	}
	named := q.namedTags.get(r, m.to)
	if len(named) == 0 {
		return callerTags{}, nil
	}
	i := q.instance.get(r, k)
	values := map[string]string{}
	for _, t := range named {
		if v, ok := i.Value(t); ok {
			values[t] = v
		}
	}
	return ir.Share(values), nil
}

// endpointsFor is the node of a port's endpoints for callers with these tags.
func (q *queries) endpointsFor(ref compile.Ref, conf confs, tags map[string]string) endpointsKey {
	k := endpointsKey{ref: ref, causes: noKeys}
	if a, ok := conf.Endpoints.Awareness.Get(); ok {
		k.locality, k.causes = compile.NewLocality(a, q.zone, tags).Share(), conf.endpoints
	}
	return k
}
