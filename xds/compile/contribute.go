package compile

import (
	"reflect"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// OutboundConfig is what all policies together say about a port of a destination, by the part of the
// output that they change. It is comparable: proxies to which different policies say the same share
// the result.
type OutboundConfig struct {
	Cluster   ir.ClusterPolicy
	Endpoints ir.EndpointPolicy
	Route     ir.RoutePolicy
	Listener  ir.ListenerPolicy
}

// Causes are the policies that made a part other than the default, sorted.
type Causes struct {
	Cluster, Endpoints, Route, Listener []mesh.Key
}

// IsOutboundConfig says that policies of the kind have a part in an [OutboundConfig].
func IsOutboundConfig(k mesh.Kind) bool {
	return slices.ContainsFunc(kinds, func(h hooks) bool { return h.kind == k && h.to != nil })
}

// ConcernsCalls says that policies of the kind can change what a proxy does with requests that it
// sends. Some have "to" for builtin gateways alone.
func ConcernsCalls(k mesh.Kind) bool {
	info, ok := mesh.Lookup(k)
	return ok && info.Policy != nil && info.Policy.HasTo() && (IsOutboundConfig(k) || !IsInboundConfig(k))
}

// IsInboundConfig says that policies of the kind have a part in an [InboundConfig].
func IsInboundConfig(k mesh.Kind) bool {
	return slices.ContainsFunc(kinds, func(h hooks) bool {
		return h.kind == k && (h.inbound != nil || h.everyInbound != nil)
	})
}

func addCauses(keys []mesh.Key, origins []policy.Origin) []mesh.Key {
	for _, o := range origins {
		keys = append(keys, o.Key)
	}
	slices.SortFunc(keys, mesh.Key.Compare)
	return slices.Compact(keys)
}

// NewOutboundConfig merges the policies that select a proxy, ascending and of any kinds, for a port
// of a destination.
func NewOutboundConfig(policies []*mesh.Resource, d policy.Destination, p Port) (OutboundConfig, Causes) {
	var out OutboundConfig
	var why Causes
	for i := range kinds {
		if to := kinds[i].to; to != nil {
			to(policy.Effective{}, p, &out)
		}
	}
	for i := range kinds {
		k := &kinds[i]
		if k.to == nil {
			continue
		}
		list := policy.OfKind(policies, k.kind)
		if len(list) == 0 {
			continue
		}
		e := policy.ForDestination(list, d)
		if len(e.Origins) == 0 {
			continue
		}
		before := out
		k.to(e, p, &out)
		if out.Cluster != before.Cluster {
			why.Cluster = addCauses(why.Cluster, e.Origins)
		}
		if out.Endpoints != before.Endpoints {
			why.Endpoints = addCauses(why.Endpoints, e.Origins)
		}
		if out.Route != before.Route {
			why.Route = addCauses(why.Route, e.Origins)
		}
		if out.Listener != before.Listener {
			why.Listener = addCauses(why.Listener, e.Origins)
		}
	}
	return out, why
}

// PolicySummary is what a set of policies says beyond one destination.
type PolicySummary struct {
	// Attached says that some are about MeshHTTPRoutes. Mostly none is, and then routes need not
	// look at other policies.
	Attached bool
	// CallerTags are the tags of callers that decide where they go, ShownTags those of endpoints
	// that decide so. Sorted.
	CallerTags, ShownTags []string
}

// NewPolicySummary reads the policies of a proxy.
func NewPolicySummary(policies []*mesh.Resource) PolicySummary {
	s := PolicySummary{Attached: slices.ContainsFunc(policies, attached)}
	for i := range kinds {
		k := &kinds[i]
		if k.callerTags == nil && k.shownTags == nil {
			continue
		}
		for _, p := range policy.OfKind(policies, k.kind) {
			for _, e := range policy.ToEntries(p) {
				if k.callerTags != nil {
					s.CallerTags = append(s.CallerTags, k.callerTags(e)...)
				}
				if k.shownTags != nil {
					s.ShownTags = append(s.ShownTags, k.shownTags(e)...)
				}
			}
		}
	}
	slices.Sort(s.CallerTags)
	slices.Sort(s.ShownTags)
	s.CallerTags, s.ShownTags = slices.Compact(s.CallerTags), slices.Compact(s.ShownTags)
	return s
}

// Equal says that nothing differs.
func (s PolicySummary) Equal(o PolicySummary) bool {
	return s.Attached == o.Attached && slices.Equal(s.CallerTags, o.CallerTags) &&
		slices.Equal(s.ShownTags, o.ShownTags)
}

func attached(p *mesh.Resource) bool {
	toRoute := func(e policy.Entry) bool { return e.Target.GetKind() == string(mesh.KindMeshHTTPRoute) }
	return IsOutboundConfig(p.Key.Kind) && slices.ContainsFunc(policy.ToEntries(p), toRoute)
}

// RoutePolicy is base, the route part of the destination, with what policies say about a
// MeshHTTPRoute itself. If a kind has an entry about the route, only that entry applies to the
// route: what the kind says of the destination does not.
func RoutePolicy(policies []*mesh.Resource, route *mesh.Resource, p Port,
	base ir.RoutePolicy) (ir.RoutePolicy, []mesh.Key) {
	dest := policy.Destination{Key: route.Key, Labels: route.Labels}
	out := OutboundConfig{Route: base}
	var why []mesh.Key
	for i := range kinds {
		k := &kinds[i]
		if k.to == nil {
			continue
		}
		if e, about := policy.ForRoute(policy.OfKind(policies, k.kind), dest); about {
			k.to(e, p, &out)
			why = addCauses(why, e.Origins)
		}
	}
	return out.Route, why
}

// InboundConfig is what policies say about an inbound; the same for all inbounds that the same
// policies select. Compare two with [InboundConfig.Equal].
type InboundConfig struct {
	// Cluster is the local workload's.
	Cluster  ir.ClusterPolicy
	Listener ir.ListenerPolicy
	Inbound  ir.InboundPolicy
	// Common is about the requests of all callers together.
	Common ir.RoutePolicy
	// Route holds for every caller but those of Callers.
	Route   ir.RoutePolicy
	Callers []Caller
	// Causes are the policies that say something.
	Causes []mesh.Key
}

// NewInboundConfig merges the policies that select an inbound, ascending and of any kinds.
func NewInboundConfig(meshName string, policies []*mesh.Resource) *InboundConfig {
	out := &InboundConfig{}
	var speaking []*mesh.Resource
	for _, p := range policies {
		if len(policy.RuleEntries(p)) > 0 || len(policy.FromEntries(p)) > 0 {
			speaking = append(speaking, p)
			out.Causes = append(out.Causes, p.Key)
		}
	}
	merged := make([]policy.Inbound, len(kinds))
	for i := range kinds {
		k := &kinds[i]
		switch {
		case k.inbound != nil:
			merged[i] = policy.ForInbound(policy.OfKind(speaking, k.kind))
			k.inbound(merged[i], out)
		case k.everyInbound != nil:
			k.everyInbound(meshName, policy.OfKind(speaking, k.kind), out)
		}
	}
	out.Callers = []Caller{{Route: out.Route}}
	for i := range kinds {
		k := &kinds[i]
		if k.caller == nil {
			continue
		}
		var rules []callerRule
		for _, c := range merged[i].Conditioned {
			// Without an identity it is about zone proxies.
			if c.Match.GetSpiffeId() != nil {
				rules = append(rules,
					callerRule{identityMatch(c.Match), func(route *ir.RoutePolicy) { k.caller(c, route) }})
			}
		}
		out.Callers = crossCallers(out.Callers, rules)
	}
	out.Callers = out.Callers[:len(out.Callers)-1] // the last holds for all others
	return out
}

// Equal says that nothing differs.
func (i *InboundConfig) Equal(o *InboundConfig) bool { return reflect.DeepEqual(i, o) }
