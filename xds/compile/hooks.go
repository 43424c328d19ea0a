package compile

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// hooks are what a kind of policy says to proxies, each in the file of the kind; the table kinds is
// generated from them, in the order of mesh.PolicyInfo.Order: of two kinds that write one field the
// later wins. Hooks are pure and change nothing in place.
type hooks struct {
	kind mesh.Kind

	// to is for kinds with entries of "to". It writes all fields that are the kind's, and no others, from
	// the merged entries; with a zero Effective it writes what holds without a policy.
	to func(e policy.Effective, p Port, out *OutboundConfig)

	// inbound is for kinds with "from" or "rules" whose policies are merged in order of priority. It
	// writes what holds for all callers, also if no policy of the kind selects the inbound.
	inbound func(in policy.Inbound, out *InboundConfig)
	// everyInbound is instead of inbound for kinds of which every policy counts; list is those that
	// select the inbound, ascending.
	everyInbound func(meshName string, list []*mesh.Resource, out *InboundConfig)
	// caller writes, over what holds for all callers, what holds for the callers of one match. Kinds that
	// know no difference do not have it, nor do those with everyInbound.
	caller func(c policy.Conditioned, route *ir.RoutePolicy)

	// inClear takes away, for connections without mTLS, what needs to know who calls.
	inClear func(out *ir.InboundPolicy)

	// callerTags are the tags of callers that decide where they go by an entry of "to".
	callerTags func(e policy.Entry) []string
	// shownTags are the tags that an entry of "to" tells endpoints apart by.
	shownTags func(e policy.Entry) []string

	// The others say in words what the parts do, for people who ask why a request goes as it does.
	requestEffects    func(r *ir.RoutePolicy, q Request) []Effect
	connectionEffects func(l *ir.ListenerPolicy) []Effect
	clusterEffects    func(c *ir.ClusterPolicy) []Effect
	inboundEffects    func(c *InboundConfig, q InboundRequest) []Effect
}
