package validate

import (
	"fmt"
	"slices"
	"time"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// maxLimitHeaders is how many headers Envoy adds to the answer to a limited request.
const maxLimitHeaders = 10

// limitStatuses are those from 400 up that Envoy has a name for (envoy.type.v3.StatusCode); with any
// other it answers 429.
var limitStatuses = []uint32{
	400,
	401,
	402,
	403,
	404,
	405,
	406,
	407,
	408,
	409,
	410,
	411,
	412,
	413,
	414,
	415,
	416,
	417,
	421,
	422,
	423,
	424,
	426,
	428,
	429,
	431,
	500,
	501,
	502,
	503,
	504,
	505,
	506,
	507,
	508,
	510,
	511,
}

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
		if on.Status != nil && !slices.Contains(limitStatuses, on.GetStatus()) {
			c.add(
				path+".http.onRateLimit.status",
				"must be an error that Envoy can answer with, such as 403, "+
					"429 or 503: it would answer 429 for %d",
				on.GetStatus(),
			)
		}
		headers := on.GetHeaders()
		c.headerAdditions(path+".http.onRateLimit.headers", headers)
		if n := len(headers.GetSet()) + len(headers.GetAdd()); n > maxLimitHeaders {
			c.add(
				path+".http.onRateLimit.headers",
				"must have at most %d headers in set and add together, has %d",
				maxLimitHeaders,
				n,
			)
		}
	}
}

func (c *check) rate(path string, r *meshv1.MeshRateLimit_Rate) {
	if r.GetInterval() != nil && r.GetInterval().AsDuration() <= 50*time.Millisecond {
		c.add(path+".interval", "must be longer than 50ms")
	}
}
