package validate

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshFaultInjectionRules(c *check, s *meshv1.MeshFaultInjection) {
	gateways := includesGateways(s.GetTargetRef())
	if len(s.GetRules()) > 0 && len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with from: make two policies")
	}
	c.directions(gateways, len(s.GetTo()), len(s.GetFrom()))
	for i, to := range s.GetTo() {
		c.faults(fmt.Sprintf("spec.to[%d].default.http", i), to.GetDefault().GetHttp())
	}
	for i, from := range s.GetFrom() {
		c.faults(fmt.Sprintf("spec.from[%d].default.http", i), from.GetDefault().GetHttp())
	}
	for i, rule := range s.GetRules() {
		path := fmt.Sprintf("spec.rules[%d]", i)
		for j, m := range rule.GetMatches() {
			if m.GetSpiffeId() != nil || m.GetSni() != nil { // an empty one means everybody here
				c.match(fmt.Sprintf("%s.matches[%d]", path, j), m)
			}
		}
		c.faults(path+".default.http", rule.GetDefault().GetHttp())
	}
}

func (c *check) faults(path string, list []*meshv1.MeshFaultInjection_Fault) {
	for i, f := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if code := f.GetAbort().GetHttpStatus(); code >= 100 && code < 200 {
			c.warn(at+".abort.httpStatus", "has no effect: an answer below 200 ends no request")
		}
		c.percentage(at+".abort.percentage", f.GetAbort().GetPercentage())
		c.notNegative(at+".delay.value", f.GetDelay().GetValue())
		c.percentage(at+".delay.percentage", f.GetDelay().GetPercentage())
		b := f.GetResponseBandwidth()
		if _, ok := mesh.BandwidthKiB(b.GetLimit()); !ok && b.GetLimit() != "" {
			c.add(at+".responseBandwidth.limit",
				"must be a number above 0 with the unit kbps, Mbps or Gbps, such as \"50 kbps\"")
		}
		c.percentage(at+".responseBandwidth.percentage", b.GetPercentage())
	}
}
