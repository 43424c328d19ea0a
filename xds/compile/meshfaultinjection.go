package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// meshFaultInjectionEveryInbound is what MeshFaultInjections say about an inbound, in the order
// in which requests meet them. Rules are not merged: one fault for each element of each rule's
// list. The matches of a rule are alternatives of that one fault, so that a caller with several
// identities meets it once.
//
// Callers of the older form are recognised by their certificate, not by a header that any client
// can write; a caller without one has no tags.
func meshFaultInjectionEveryInbound(meshName string, list []*mesh.Resource, out *InboundConfig) {
	set := policy.Faults(list)
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
		out.Inbound.Faults = append(out.Inbound.Faults, faults(f, r.Conf)...)
	}
	for _, from := range set.From {
		f := ir.Fault{Name: from.Origin.Key.KRI("")}
		if len(from.All)+len(from.Not) > 0 {
			f.Principal = &principals(meshName, []policy.Principal{from.Principal})[0]
		}
		out.Inbound.Faults = append(out.Inbound.Faults, faults(f, from.Conf)...)
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
		if d := or(h.GetDelay().GetValue(), 0); d > 0 {
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

func meshFaultInjectionInboundEffects(c *InboundConfig, q InboundRequest) []Effect {
	if !q.HTTP {
		return nil
	}
	var out []Effect
	for _, f := range c.Inbound.Faults {
		if !q.Meets(f) {
			continue
		}
		add := func(fatal bool, format string, args ...any) {
			out = append(out, Effect{
				Subject: "fault",
				Policy:  f.Name,
				Fatal:   fatal,
				Text:    fmt.Sprintf(format, args...),
			})
		}
		if f.Abort > 0 {
			add(f.Abort == 1_000_000, "%s of the requests are answered %d on purpose", percentText(f.Abort),
				f.AbortStatus)
		}
		if f.Delay > 0 {
			add(false, "%s of the requests wait %s on purpose", percentText(f.Delay), f.DelayBy)
		}
		if f.Slow > 0 {
			add(false, "%s of the answers come at %d KiB/s on purpose", percentText(f.Slow), f.SlowTo)
		}
	}
	return out
}

// percentText is a share in millionths as a percentage with at most one decimal.
func percentText(millionths uint32) string {
	text := fmt.Sprintf("%.1f", 100*float64(millionths)/1_000_000)
	return strings.TrimSuffix(strings.TrimSuffix(text, "0"), ".") + " %"
}
