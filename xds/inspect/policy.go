package inspect

import (
	"fmt"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
)

// DefaultSize is how many Dataplanes [Policy] names at most if not told.
const DefaultSize = 20

// Policy says which Dataplanes of a zone a policy selects, and for the first size of them by name
// what it decides: inbounds and destinations of which at least one setting, route or
// permission is the policy's. With namesOnly all are named, and nothing else.
func Policy(s *xds.Static, view replica.View, zone string, key mesh.Key, size int,
	namesOnly bool) (*adminv1.ZoneEffect, error) {
	if size == 0 {
		size = DefaultSize
	}
	out := &adminv1.ZoneEffect{Zone: zone}
	for dp := range view.List(mesh.KindDataplane, key.Mesh) {
		if dp.Key.Zone != zone {
			continue
		}
		out.Dataplanes++
		selecting, err := s.Policies(dp.Key)
		if err != nil {
			return nil, fmt.Errorf("the policies of %s cannot be computed: %w", dp.Key.Name, err)
		}
		if !slices.ContainsFunc(selecting, func(p *mesh.Resource) bool { return p.Key == key }) {
			continue
		}
		out.Selected++
		if namesOnly {
			out.Effects = append(out.Effects, &adminv1.PolicyEffect{Key: dp.Key.Proto(), Labels: dp.Labels})
			continue
		}
		if len(out.Effects) == size {
			continue
		}
		in, err := s.Inspect(dp.Key)
		if err != nil {
			return nil, fmt.Errorf("the configuration of %s cannot be computed: %w", dp.Key.Name, err)
		}
		out.Effects = append(out.Effects, effect(in, key))
	}
	return out, nil
}

func effect(in *xds.Inspection, key mesh.Key) *adminv1.PolicyEffect {
	out := &adminv1.PolicyEffect{Key: in.Proxy.Key.Proto(), Labels: in.Proxy.Labels}
	d := Dataplane(in, 0)
	for _, i := range d.GetInbounds() {
		if sets(i.GetPolicies(), key) {
			out.Inbounds = append(out.Inbounds, i.GetSection())
		}
	}
	for _, o := range d.GetOutbounds() {
		if sets(o.GetPolicies(), key) ||
			slices.ContainsFunc(o.GetRoutes(), func(r *adminv1.InspectedRoute) bool {
				return mesh.KeyFromProto(r.GetFrom().GetPolicy()) == key || sets(r.GetPolicies(), key)
			}) {
			out.Outbounds = append(out.Outbounds, o.GetKri())
		}
	}
	return out
}

func sets(list []*adminv1.EffectivePolicy, key mesh.Key) bool {
	return slices.ContainsFunc(list, func(e *adminv1.EffectivePolicy) bool {
		return slices.ContainsFunc(e.GetSettings(),
			func(s *adminv1.Setting) bool { return mesh.KeyFromProto(s.GetFrom().GetPolicy()) == key })
	})
}

// originsOf are the policies of an effective configuration, each once, highest rank first.
func originsOf(e policy.Effective) []policy.Origin {
	var out []policy.Origin
	for _, o := range slices.Backward(e.Origins) {
		if !slices.ContainsFunc(out, func(p policy.Origin) bool { return p.Key == o.Key }) {
			out = append(out, o)
		}
	}
	return out
}
