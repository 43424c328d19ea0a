package compile

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// faultInbound is what MeshFaultInjections say about an inbound, in the order
// in which requests meet them. Rules are not merged: one fault for each element of each rule's
// list. The matches of a rule are alternatives of that one fault, so that a caller with several
// identities meets it once.
//
// Callers of the older form are recognised by their certificate, not by a header that any client
// can write; a caller without one has no tags.
func faultInbound(c InboundContext, out *InboundConf) {
	set := policy.Faults(c.Policies)
	var seen []policy.Origin
	for _, r := range set.Rules {
		if slices.Contains(seen, r.Origin) {
			continue
		}
		seen = append(seen, r.Origin)
		f := ir.Fault{Name: r.Origin.Key.KRI("")}
		for _, o := range set.Rules {
			if o.Origin == r.Origin && o.Match != nil {
				f.Callers = append(f.Callers, identityMatch(o.Match))
			}
		}
		out.Faults = append(out.Faults, faults(f, r.Conf)...)
	}
	for _, from := range set.From {
		f := ir.Fault{Name: from.Origin.Key.KRI("")}
		if len(from.All)+len(from.Not) > 0 {
			f.Principal = &principals(c.Mesh, []policy.Principal{from.Principal})[0]
		}
		out.Faults = append(out.Faults, faults(f, from.Conf)...)
	}
}

// faults are the elements of a list, each for the callers of common. What Envoy cannot do is left
// out, and the rest of the element holds: an answer of 1xx, a delay of nothing.
func faults(common ir.Fault, conf *meshv1.MeshFaultInjection_Conf) []ir.Fault {
	var out []ir.Fault
	for _, h := range conf.GetHttp() {
		f := common
		if a := h.GetAbort(); a.GetHttpStatus() >= 200 && a.GetHttpStatus() < 600 {
			f.AbortStatus, f.Abort = a.GetHttpStatus(), millionths(a.GetPercentage())
		}
		if d := h.GetDelay().GetValue().AsDuration(); d > 0 {
			f.DelayBy, f.Delay = d, millionths(h.GetDelay().GetPercentage())
		}
		if kib, ok := mesh.BandwidthKiB(h.GetResponseBandwidth().GetLimit()); ok {
			f.SlowTo, f.Slow = kib, millionths(h.GetResponseBandwidth().GetPercentage())
		}
		if f.Abort > 0 || f.Delay > 0 || f.Slow > 0 {
			out = append(out, f)
		}
	}
	return out
}
