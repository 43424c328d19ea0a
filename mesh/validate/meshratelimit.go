package validate

import (
	"fmt"
	"time"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshRateLimitRules(c *check, s *meshv1.MeshRateLimit) {
	gateways := includesGateways(s.GetTargetRef())
	if len(s.GetRules()) > 0 && len(s.GetTo())+len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with to or from: make two policies")
	}
	c.directions(gateways, len(s.GetTo()), len(s.GetFrom()))
	if len(s.GetRules()) > 0 && gateways {
		c.add("spec.rules", needsSidecars)
	}
	for i, to := range s.GetTo() {
		c.limits(fmt.Sprintf("spec.to[%d].default.local", i), to.GetDefault().GetLocal())
	}
	for i, from := range s.GetFrom() {
		c.limits(fmt.Sprintf("spec.from[%d].default.local", i), from.GetDefault().GetLocal())
	}
	for i, rule := range s.GetRules() {
		path := fmt.Sprintf("spec.rules[%d]", i)
		caller := c.matches(path, rule.GetMatches())
		local := rule.GetDefault().GetLocal()
		c.limits(path+".default.local", local)
		if caller && local.GetTcp() != nil {
			c.add(path+".default.local.tcp",
				"must not be given in a rule with a spiffeID: it cannot depend on the caller")
		}
	}
}

func (c *check) limits(path string, l *meshv1.MeshRateLimit_Local) {
	if l == nil {
		return // the schema says so
	}
	h, t := l.GetHttp(), l.GetTcp()
	if h == nil && t == nil {
		c.add(path, "needs at least one of http and tcp")
	}
	if h != nil && h.Disabled == nil && h.GetRequestRate() == nil && h.GetOnRateLimit() == nil {
		c.add(path+".http", "needs at least one of disabled, requestRate and onRateLimit")
	}
	if t != nil && t.Disabled == nil && t.GetConnectionRate() == nil {
		c.add(path+".tcp", "needs at least one of disabled and connectionRate")
	}
	c.rate(path+".http.requestRate", h.GetRequestRate())
	c.rate(path+".tcp.connectionRate", t.GetConnectionRate())
	if on := h.GetOnRateLimit(); on != nil {
		if on.Status != nil && on.GetStatus() < 400 {
			c.warn(path+".http.onRateLimit.status", "is below 400: the answer will have status 429")
		}
		if on.GetStatus() > 599 {
			c.add(path+".http.onRateLimit.status", "must be at most 599")
		}
		c.headerAdditions(path+".http.onRateLimit.headers", on.GetHeaders())
	}
}

func (c *check) rate(path string, r *meshv1.MeshRateLimit_Rate) {
	if r.GetInterval() != nil && r.GetInterval().AsDuration() <= 50*time.Millisecond {
		c.add(path+".interval", "must be longer than 50ms")
	}
}
