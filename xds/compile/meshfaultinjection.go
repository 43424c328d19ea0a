package compile

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// faultInbound is what MeshFaultInjections say about an inbound (traffic-policies 10), in the order in which requests
// meet them. Rules are not merged: one fault for each element of each rule's list.
//
// Callers of the older form are told by their certificate, not by a header that anybody can write; a caller without one
// has no tags.
func faultInbound(c InboundContext, out *InboundConf) {
	for _, f := range policy.Faults(c.Policies) {
		common := ir.Fault{Name: f.Origin.Key.KRI("")}
		for _, m := range f.Matches {
			common.Callers = append(common.Callers, identityMatch(m))
		}
		if f.Principal != nil && len(f.Principal.All)+len(f.Principal.Not) > 0 {
			common.Principal = &principals(c.Mesh, []policy.Principal{*f.Principal})[0]
		}
		for _, h := range f.Faults {
			one := common
			// What Envoy cannot do is left out, and the rest of the fault holds: an answer of 1xx, a delay of nothing.
			if a := h.GetAbort(); a.GetHttpStatus() >= 200 && a.GetHttpStatus() < 600 {
				one.AbortStatus, one.Abort = a.GetHttpStatus(), millionths(a.GetPercentage())
			}
			if d := h.GetDelay().GetValue().AsDuration(); d > 0 {
				one.DelayBy, one.Delay = d, millionths(h.GetDelay().GetPercentage())
			}
			if kib, ok := mesh.BandwidthKiB(h.GetResponseBandwidth().GetLimit()); ok {
				one.SlowTo, one.Slow = kib, millionths(h.GetResponseBandwidth().GetPercentage())
			}
			if one.Abort+one.Delay+one.Slow > 0 {
				out.Faults = append(out.Faults, one)
			}
		}
	}
}
