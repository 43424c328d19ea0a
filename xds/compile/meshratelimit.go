package compile

import (
	"fmt"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshRateLimitInbound(in policy.Inbound, out *InboundConfig) {
	local := rateLimit(in.CatchAll)
	if t := local.GetTcp(); !t.GetDisabled() && t.GetConnectionRate() != nil {
		r := rate(t.GetConnectionRate())
		out.Inbound.Connections = &r
	}
	if l := requestLimit(local.GetHttp()); l.Num > 0 {
		out.Common.Limit = ir.Share(l)
	}
}

// meshRateLimitCaller is a bucket of its own, even if it differs in nothing from that of all others, over
// which the rule says only what differs; or none, for an exempt caller. Routes have buckets: where
// rules of another kind split these callers, each part has its own. Connections do not depend on the
// caller.
func meshRateLimitCaller(c policy.Conditioned, route *ir.RoutePolicy) {
	route.Limit = ir.Share(requestLimit(rateLimit(c.Effective).GetHttp()))
}

func rateLimit(e policy.Effective) *meshv1.MeshRateLimit_Local {
	conf, _ := e.Conf.(*meshv1.MeshRateLimit_Conf)
	return conf.GetLocal()
}

func rate(r *meshv1.MeshRateLimit_Rate) ir.Rate {
	return ir.Rate{Num: r.GetNum(), Interval: max(or(r.GetInterval(), 0), minFill)}
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

func meshRateLimitInboundEffects(c *InboundConfig, q InboundRequest) []Effect {
	one := func(field, format string, args ...any) []Effect {
		return []Effect{{Subject: "rate limit", Fields: []string{field}, Text: fmt.Sprintf(format, args...)}}
	}
	if !q.HTTP {
		if l := c.Inbound.Connections; l != nil {
			return one("local.tcp", "%d connections each %s, of all callers together", l.Num, l.Interval)
		}
		return nil
	}
	own, ok := q.Route.Limit.Get()
	common, _ := c.Common.Limit.Get()
	switch {
	case ok && own.Num > 0:
		return one("local.http", "%s, of these callers together", requestLimitText(own))
	case !ok && common.Num > 0:
		return one("local.http", "%s, of all callers together", requestLimitText(common))
	}
	return nil
}

func requestLimitText(l ir.RequestLimit) string {
	status := l.Status
	if status == 0 {
		status = 429
	}
	return fmt.Sprintf("%d requests each %s, more are answered %d", l.Num, l.Interval, status)
}
