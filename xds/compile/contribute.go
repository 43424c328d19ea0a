package compile

import (
	"reflect"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// OutboundConf is what all policies together say about a port of a destination, by the part of the
// output that they change. It is comparable: proxies to which different policies say the same share
// the result.
type OutboundConf struct {
	Cluster   ir.ClusterPolicy
	Endpoints ir.EndpointPolicy
	Route     ir.RoutePolicy
	Listener  ir.ListenerPolicy
}

// Causes are the policies that made a part other than the default, sorted.
type Causes struct {
	Cluster, Endpoints, Route, Listener []mesh.Key
}

// toKind is a kind of policy with entries of "to".
type toKind struct {
	kind mesh.Kind
	// apply writes all fields that are this kind's, and no others, from the merged entries; with a
	// zero Effective it writes what holds without a policy. It keeps no state and changes nothing
	// in place.
	apply func(e policy.Effective, p Port, out *OutboundConf)
}

// toKinds are in the order of mesh.PolicyInfo.Order: of two kinds that write one field the
// later wins.
var toKinds = []toKind{
	{mesh.KindMeshLoadBalancingStrategy, balancingTo},
	{mesh.KindMeshTimeout, timeoutTo},
	{mesh.KindMeshHealthCheck, healthTo},
	{mesh.KindMeshCircuitBreaker, breakerTo},
	{mesh.KindMeshRetry, retryTo},
}

// inboundKind is a kind of policy with "from" or "rules".
type inboundKind struct {
	kind mesh.Kind
	// merged kinds are merged in order of priority, and apply gets the result; the others' policies
	// all count.
	merged bool
	// apply writes what holds for all callers, also if no policy of the kind selects the inbound.
	apply func(c InboundContext, out *InboundConf)
	// caller writes, over what holds for all callers, what holds for the callers of one match;
	// false if the rule says nothing that depends on them. It is nil if the kind knows no
	// difference, as all that are not merged.
	caller func(in policy.Inbound, c policy.Conditioned, route *ir.RoutePolicy) bool
}

// InboundContext is what else a kind may look at.
type InboundContext struct {
	Mesh string
	// Policies are those of the kind that select the inbound, ascending.
	Policies []*mesh.Resource
	// Merged is what they say together, for kinds that are merged.
	Merged policy.Inbound
}

// inboundKinds are in the order of mesh.PolicyInfo.Order.
var inboundKinds = []inboundKind{
	{kind: mesh.KindMeshFaultInjection, apply: faultInbound},
	{
		kind:   mesh.KindMeshRateLimit,
		merged: true,
		apply:  limitInbound,
		caller: limitCaller,
	},
	{
		kind:   mesh.KindMeshTimeout,
		merged: true,
		apply:  timeoutInbound,
		caller: timeoutCaller,
	},
	{kind: mesh.KindMeshTrafficPermission, apply: permissionInbound},
	{kind: mesh.KindMeshCircuitBreaker, merged: true, apply: breakerInbound},
}

// IsOutboundConf says that policies of the kind have a part in an [OutboundConf].
func IsOutboundConf(k mesh.Kind) bool {
	return slices.ContainsFunc(toKinds, func(t toKind) bool { return t.kind == k })
}

// ConcernsCalls says that policies of the kind can change what a proxy does with requests that it
// sends. Some have "to" for builtin gateways alone.
func ConcernsCalls(k mesh.Kind) bool {
	info, ok := mesh.Lookup(k)
	return ok && info.Policy != nil && info.Policy.HasTo() && (IsOutboundConf(k) || !IsInboundConf(k))
}

// IsInboundConf says that policies of the kind have a part in an [InboundConf].
func IsInboundConf(k mesh.Kind) bool {
	return slices.ContainsFunc(inboundKinds, func(t inboundKind) bool { return t.kind == k })
}

func ofKind(policies []*mesh.Resource, k mesh.Kind) []*mesh.Resource {
	var out []*mesh.Resource
	for _, p := range policies {
		if p.Key.Kind == k {
			out = append(out, p)
		}
	}
	return out
}

func addCauses(keys []mesh.Key, origins []policy.Origin) []mesh.Key {
	for _, o := range origins {
		keys = append(keys, o.Key)
	}
	slices.SortFunc(keys, mesh.Key.Compare)
	return slices.Compact(keys)
}

// NewOutboundConf merges the policies that select a proxy, ascending and of any kinds, for a port
// of a destination.
func NewOutboundConf(policies []*mesh.Resource, d policy.Destination, p Port) (OutboundConf, Causes) {
	var out OutboundConf
	var why Causes
	for _, k := range toKinds {
		k.apply(policy.Effective{}, p, &out)
	}
	for _, k := range toKinds {
		list := ofKind(policies, k.kind)
		if len(list) == 0 {
			continue
		}
		e := policy.ForDestination(list, d)
		if len(e.Origins) == 0 {
			continue
		}
		before := out
		k.apply(e, p, &out)
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

// Survey is what a set of policies says beyond one destination.
type Survey struct {
	// Attached says that some are about MeshHTTPRoutes. Mostly none is, and then routes need not
	// look at other policies.
	Attached bool
	// CallerTags are the tags of callers that decide where they go, ShownTags those of endpoints
	// that decide so. Sorted.
	CallerTags, ShownTags []string
}

// NewSurvey reads the policies of a proxy.
func NewSurvey(policies []*mesh.Resource) Survey {
	return Survey{
		Attached:   slices.ContainsFunc(policies, attached),
		CallerTags: AffinityTags(policies),
		ShownTags:  omittedTags(policies),
	}
}

// Equal says that nothing differs.
func (s Survey) Equal(o Survey) bool {
	return s.Attached == o.Attached && slices.Equal(s.CallerTags, o.CallerTags) &&
		slices.Equal(s.ShownTags, o.ShownTags)
}

func attached(p *mesh.Resource) bool {
	return IsOutboundConf(p.Key.Kind) && slices.ContainsFunc(policy.ToEntries(p), func(e policy.Entry) bool {
		return e.Target.GetKind() == string(mesh.KindMeshHTTPRoute)
	})
}

// RouteConf is base, the route part of the destination, with what policies say about a
// MeshHTTPRoute itself. If a kind has an entry about the route, only that entry applies to the
// route: what the kind says of the destination does not.
func RouteConf(policies []*mesh.Resource, route *mesh.Resource, p Port,
	base ir.RoutePolicy) (ir.RoutePolicy, []mesh.Key) {
	dest := policy.Destination{Key: route.Key, Labels: route.Labels}
	out := OutboundConf{Route: base}
	var why []mesh.Key
	for _, k := range toKinds {
		if e, about := policy.ForRoute(ofKind(policies, k.kind), dest); about {
			k.apply(e, p, &out)
			why = addCauses(why, e.Origins)
		}
	}
	return out.Route, why
}

// InboundConf is what policies say about an inbound; the same for all inbounds that the same
// policies select. Compare two with [InboundConf.Equal].
type InboundConf struct {
	// Cluster is the local workload's.
	Cluster  ir.ClusterPolicy
	Listener ir.ListenerPolicy
	// Route holds for every caller but those of Callers.
	Route   ir.RoutePolicy
	Callers []Caller
	RBAC    *ir.RBAC
	Limits  Limits
	Faults  []ir.Fault
	// Causes are the policies that say something.
	Causes []mesh.Key
}

// NewInboundConf merges the policies that select an inbound, ascending and of any kinds.
func NewInboundConf(meshName string, policies []*mesh.Resource) *InboundConf {
	out := &InboundConf{}
	var speaking []*mesh.Resource
	for _, p := range policies {
		if len(policy.RuleEntries(p)) > 0 || len(policy.FromEntries(p)) > 0 {
			speaking = append(speaking, p)
			out.Causes = append(out.Causes, p.Key)
		}
	}
	merged := make([]policy.Inbound, len(inboundKinds))
	for i, k := range inboundKinds {
		list := ofKind(speaking, k.kind)
		if k.merged {
			merged[i] = policy.ForInbound(list)
		}
		k.apply(InboundContext{Mesh: meshName, Policies: list, Merged: merged[i]}, out)
	}
	out.Callers = []Caller{{Route: out.Route}}
	for i, k := range inboundKinds {
		if k.caller == nil {
			continue
		}
		var rules []callerRule
		for _, c := range merged[i].Conditioned {
			// Without an identity it is about zone proxies.
			if probe := out.Route; c.Match.GetSpiffeId() != nil && k.caller(merged[i], c, &probe) {
				rules = append(rules,
					callerRule{identityMatch(c.Match),
						func(route *ir.RoutePolicy) { k.caller(merged[i], c, route) }})
			}
		}
		out.Callers = crossCallers(out.Callers, rules)
	}
	out.Callers = out.Callers[:len(out.Callers)-1] // the last is everybody
	return out
}

// Equal says that nothing differs.
func (i *InboundConf) Equal(o *InboundConf) bool { return reflect.DeepEqual(i, o) }
