package compile

import (
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Limits is what MeshRateLimits say about all callers of an inbound. Each
// proxy counts for itself.
type Limits struct {
	// Connections of all callers together; nil does not limit.
	Connections *ir.Rate
	// Requests of all callers together but those with a limit of their own; nil does not limit.
	Requests *ir.RequestLimit
}

func limitInbound(c InboundContext, out *InboundConf) {
	local := rateLimit(c.Merged.CatchAll)
	if t := local.GetTcp(); !t.GetDisabled() && t.GetConnectionRate() != nil {
		r := rate(t.GetConnectionRate())
		out.Limits.Connections = &r
	}
	if l := requestLimit(local.GetHttp()); l.Num > 0 {
		out.Limits.Requests = &l
	}
}

// limitCaller is a bucket of its own, even if it differs in nothing from that of everybody, over
// which the rule says only what differs; or none, for an exempt caller. Routes have buckets: where
// rules of another kind split these callers, each part has its own.
func limitCaller(_ policy.Inbound, c policy.Conditioned, route *ir.RoutePolicy) bool {
	route.Limit = ir.Share(requestLimit(rateLimit(c.Effective).GetHttp()))
	return true // a rule with an identity is about requests: connections do not depend on the caller
}

func rateLimit(e policy.Effective) *meshv1.MeshRateLimit_Local {
	conf, _ := e.Conf.(*meshv1.MeshRateLimit_Conf)
	return conf.GetLocal()
}

func rate(r *meshv1.MeshRateLimit_Rate) ir.Rate {
	return ir.Rate{Num: r.GetNum(), Interval: r.GetInterval().AsDuration()}
}

func requestLimit(h *meshv1.MeshRateLimit_Http) ir.RequestLimit {
	if h.GetDisabled() || h.GetRequestRate() == nil {
		return ir.RequestLimit{}
	}
	out := ir.RequestLimit{Rate: rate(h.GetRequestRate()), Status: h.GetOnRateLimit().GetStatus()}
	for _, s := range h.GetOnRateLimit().GetHeaders().GetSet() {
		out.Headers.Set = append(out.Headers.Set, ir.Header{Name: s.GetName(), Value: s.GetValue()})
	}
	for _, a := range h.GetOnRateLimit().GetHeaders().GetAdd() {
		out.Headers.Add = append(out.Headers.Add, ir.Header{Name: a.GetName(), Value: a.GetValue()})
	}
	return out
}
