package validate

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshTimeoutRules(c *check, s *meshv1.MeshTimeout) {
	top := s.GetTargetRef().GetKind()
	if len(s.GetTo())+len(s.GetFrom())+len(s.GetRules()) == 0 {
		c.add("spec", "needs at least one of to, rules and from")
	}
	if len(s.GetRules()) > 0 && len(s.GetTo())+len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with to or from: make two policies")
	}
	if (top == "MeshGateway" || top == "MeshHTTPRoute") && len(s.GetFrom()) > 0 {
		c.add("spec.from", "must not be given with a top-level %s", top)
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.timeoutConf(path+".default", to.GetDefault())
		if top == "MeshHTTPRoute" {
			c.forbidTimeouts(path+".default", to.GetDefault(), "with a top-level MeshHTTPRoute", false)
		} else if to.GetTargetRef().GetKind() == "MeshHTTPRoute" {
			c.inertTimeouts(path+".default", to.GetDefault())
		}
	}
	for i, from := range s.GetFrom() {
		c.timeoutConf(fmt.Sprintf("spec.from[%d].default", i), from.GetDefault())
	}
	for i, rule := range s.GetRules() {
		path := fmt.Sprintf("spec.rules[%d]", i)
		caller := c.matches(path, rule.GetMatches())
		c.timeoutConf(path+".default", rule.GetDefault())
		if caller {
			c.forbidTimeouts(path+".default", rule.GetDefault(),
				"in a rule with a spiffeID: it cannot depend on the caller", true)
		}
	}
}

func (c *check) timeoutConf(path string, conf *meshv1.MeshTimeout_Conf) {
	h := conf.GetHttp()
	if conf.GetConnectionTimeout() == nil && conf.GetIdleTimeout() == nil && h == nil {
		c.add(path, "needs at least one of connectionTimeout, idleTimeout and http")
	}
	c.positive(path+".connectionTimeout", conf.GetConnectionTimeout())
	c.notNegative(path+".idleTimeout", conf.GetIdleTimeout())
	if h == nil {
		return
	}
	if h.GetRequestTimeout() == nil && h.GetStreamIdleTimeout() == nil && h.GetMaxStreamDuration() == nil &&
		h.GetMaxConnectionDuration() == nil && h.GetRequestHeadersTimeout() == nil {
		c.add(path+".http", "needs at least one of requestTimeout, streamIdleTimeout, maxStreamDuration, "+
			"maxConnectionDuration and requestHeadersTimeout")
	}
	c.notNegative(path+".http.requestTimeout", h.GetRequestTimeout())
	c.notNegative(path+".http.streamIdleTimeout", h.GetStreamIdleTimeout())
	c.notNegative(path+".http.maxStreamDuration", h.GetMaxStreamDuration())
	c.notNegative(path+".http.maxConnectionDuration", h.GetMaxConnectionDuration())
	c.notNegative(path+".http.requestHeadersTimeout", h.GetRequestHeadersTimeout())
}

type namedDuration struct {
	name string
	d    *durationpb.Duration
}

// routeless are the timeouts that are no property of a route.
func routeless(conf *meshv1.MeshTimeout_Conf, headers bool) []namedDuration {
	h := conf.GetHttp()
	out := []namedDuration{{"connectionTimeout", conf.GetConnectionTimeout()},
		{"idleTimeout", conf.GetIdleTimeout()},
		{"http.maxStreamDuration", h.GetMaxStreamDuration()},
		{"http.maxConnectionDuration", h.GetMaxConnectionDuration()}}
	if headers {
		out = append(out, namedDuration{"http.requestHeadersTimeout", h.GetRequestHeadersTimeout()})
	}
	return slices.DeleteFunc(out, func(n namedDuration) bool { return n.d == nil })
}

func (c *check) forbidTimeouts(path string, conf *meshv1.MeshTimeout_Conf, where string, headers bool) {
	for _, n := range routeless(conf, headers) {
		c.add(path+"."+n.name, "must not be given %s", where)
	}
}

func (c *check) inertTimeouts(path string, conf *meshv1.MeshTimeout_Conf) {
	for _, n := range routeless(conf, true) {
		c.warn(path+"."+n.name, "has no effect on a route")
	}
}
