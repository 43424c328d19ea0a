package xds

import (
	"encoding/json"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// What a MeshLoadBalancingStrategy says of localities makes endpoints differ between callers, yet only as far as it says:
// the endpoints of a port are one node for all callers with equal localities, and of a caller's tags only those that the
// policies name are looked at. Without such a policy the locality is empty and there is one node for all.

type (
	// endpointsKey is a destination's port for callers with the same locality; causes are the policies that made it.
	endpointsKey struct {
		ref      compile.Ref
		locality string
		causes   keyList
	}
	// callerTags are the values of a caller's tags that its policies name, as text; empty if they name none.
	callerTags string
)

// confBalancing is what MeshLoadBalancingStrategies say and which of them said it.
type confBalancing struct {
	compile.Balancing
	causes keyList
}

func (c confBalancing) equal(o confBalancing) bool { return c.causes == o.causes && c.Balancing.Equal(o.Balancing) }

func (q *queries) computeBalancing(r *reader, k inSet) (confBalancing, error) {
	d := q.destination(r, k.ref.Key)
	if d == nil {
		return confBalancing{causes: internKeys(nil)}, nil
	}
	e := policy.ForDestination(q.policies(r, k.set, mesh.KindMeshLoadBalancingStrategy),
		policy.Destination{Key: d.Key, Labels: d.Labels, Section: k.ref.Section})
	return confBalancing{compile.NewBalancing(e), causes(e.Origins)}, nil
}

// computeNamedTags are the tags that a list of policies names, as text.
func (q *queries) computeNamedTags(r *reader, l keyList) (string, error) {
	tags := compile.AffinityTags(q.policies(r, l, mesh.KindMeshLoadBalancingStrategy))
	if len(tags) == 0 {
		return "", nil
	}
	text, err := json.Marshal(tags)
	return string(text), err
}

func (q *queries) computeCallerTags(r *reader, k mesh.Key) (callerTags, error) {
	m := q.match.get(r, k)
	if m == nil {
		return "", nil
	}
	named := q.namedTags.get(r, m.to)
	if named == "" {
		return "", nil
	}
	var tags []string
	if err := json.Unmarshal([]byte(named), &tags); err != nil {
		return "", err
	}
	i := q.instance.get(r, k)
	values := map[string]string{}
	for _, t := range tags {
		if v, ok := i.Value(t); ok {
			values[t] = v
		}
	}
	text, err := json.Marshal(values)
	return callerTags(text), err
}

// caller gives the values in tags.
func (tags callerTags) caller() (func(string) (string, bool), error) {
	var values map[string]string
	if tags != "" {
		if err := json.Unmarshal([]byte(tags), &values); err != nil {
			return nil, err
		}
	}
	return func(k string) (string, bool) {
		v, ok := values[k]
		return v, ok
	}, nil
}

// endpointsFor is the node of a port's endpoints for callers with these tags.
func (q *queries) endpointsFor(ref compile.Ref, b confBalancing, value func(string) (string, bool)) (endpointsKey, error) {
	k := endpointsKey{ref: ref, causes: internKeys(nil)}
	if b.Awareness == nil {
		return k, nil
	}
	var err error
	if k.locality, err = compile.NewLocality(b.Awareness, q.zone, value).Key(); k.locality != "" {
		k.causes = b.causes
	}
	return k, err
}
