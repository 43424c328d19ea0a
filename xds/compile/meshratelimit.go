package compile

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Limits is what MeshRateLimits say about an inbound (traffic-policies 5). Each proxy counts for itself.
type Limits struct {
	// Connections of all callers together; nil does not limit.
	Connections *ir.Rate
	// Requests of all callers together that no condition fits; nil does not limit.
	Requests *ir.RequestLimit
	Callers  []CallerLimit
}

// CallerLimit is the limit of requests by callers that fit, all together. It is never nil: an exemption has rate 0.
type CallerLimit struct {
	Match ir.IdentityMatch
	Limit *ir.RequestLimit
}

// NewLimits merges the MeshRateLimits that select an inbound, ascending. A conditioned rule says only what differs from
// the limit of everybody, and has a bucket of its own even if nothing differs.
func NewLimits(policies []*mesh.Resource) Limits {
	in := policy.ForInbound(policies)
	local := rateLimit(in.CatchAll)
	var out Limits
	if t := local.GetTcp(); !t.GetDisabled() && t.GetConnectionRate() != nil {
		out.Connections = rate(t.GetConnectionRate())
	}
	if l := requestLimit(local.GetHttp()); l.Num > 0 {
		out.Requests = l
	}
	for _, c := range in.Conditioned {
		// A rule about server names alone is for zone proxies, and one about connections cannot depend on the caller.
		if c.Match.GetSpiffeId() != nil && rateLimit(c.Effective).GetHttp() != nil {
			out.Callers = append(out.Callers, CallerLimit{identityMatch(c.Match), requestLimit(rateLimit(c.Over(in.CatchAll)).GetHttp())})
		}
	}
	return out
}

func rateLimit(e policy.Effective) *meshv1.MeshRateLimit_Local {
	conf, _ := e.Conf.(*meshv1.MeshRateLimit_Conf)
	return conf.GetLocal()
}

func rate(r *meshv1.MeshRateLimit_Rate) *ir.Rate {
	return &ir.Rate{Num: r.GetNum(), Interval: r.GetInterval().AsDuration()}
}

func requestLimit(h *meshv1.MeshRateLimit_Http) *ir.RequestLimit {
	if h.GetDisabled() || h.GetRequestRate() == nil {
		return &ir.RequestLimit{}
	}
	out := &ir.RequestLimit{Rate: *rate(h.GetRequestRate()), Status: h.GetOnRateLimit().GetStatus()}
	for _, s := range h.GetOnRateLimit().GetHeaders().GetSet() {
		out.Headers.Set = append(out.Headers.Set, ir.Header{Name: s.GetName(), Value: s.GetValue()})
	}
	for _, a := range h.GetOnRateLimit().GetHeaders().GetAdd() {
		out.Headers.Add = append(out.Headers.Add, ir.Header{Name: a.GetName(), Value: a.GetValue()})
	}
	return out
}
