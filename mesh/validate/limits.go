package validate

import (
	"fmt"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// includesGateways says that a top-level targetRef can select gateways (traffic-policies 1.5).
func includesGateways(t *meshv1.TargetRef) bool {
	switch t.GetKind() {
	case "", "Mesh", "MeshSubset":
		return len(t.GetProxyTypes()) == 0 || slices.Contains(t.GetProxyTypes(), "Gateway")
	}
	return t.GetKind() == "MeshGateway" || t.GetKind() == "MeshHTTPRoute"
}

const (
	needsSidecars = "must not be given for gateways: give spec.targetRef proxyTypes [Sidecar], or " +
		"use Dataplane"
	needsGateways = "must not be given for sidecars: only builtin gateways have it; use rules"
	noGateways    = "has no effect: there are no builtin gateways; use rules"
)

// rateLimit: traffic-policies 5.1, with natural paths.
func (c *check) rateLimit(s *meshv1.MeshRateLimit) {
	c.top(mesh.KindMeshRateLimit, s.GetTargetRef(), len(s.GetFrom())+len(s.GetRules()) > 0)
	gateways := includesGateways(s.GetTargetRef())
	if len(s.GetRules()) > 0 && len(s.GetTo())+len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with to or from: make two policies")
	}
	if len(s.GetTo()) > 0 {
		if !gateways {
			c.add("spec.to", needsGateways)
		}
		c.warn("spec.to", noGateways)
	}
	if len(s.GetFrom()) > 0 {
		if gateways {
			c.add("spec.from", needsSidecars)
		}
		c.warn("spec.from", "is deprecated: use rules")
	}
	if len(s.GetRules()) > 0 && gateways {
		c.add("spec.rules", needsSidecars)
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: []string{"Mesh"}})
		c.limits(path+".default.local", to.GetDefault().GetLocal())
	}
	for i, from := range s.GetFrom() {
		path := fmt.Sprintf("spec.from[%d]", i)
		c.target(path+".targetRef", from.GetTargetRef(), level{kinds: []string{"Mesh"}})
		c.limits(path+".default.local", from.GetDefault().GetLocal())
	}
	for i, rule := range s.GetRules() {
		path := fmt.Sprintf("spec.rules[%d]", i)
		caller := false
		for j, m := range rule.GetMatches() {
			c.match(fmt.Sprintf("%s.matches[%d]", path, j), m)
			caller = caller || m.GetSpiffeId() != nil
		}
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

// headerAdditions checks what goes into headers of proxies' own messages.
func (c *check) headerAdditions(path string, h *meshv1.HeaderAdditions) {
	for i, set := range h.GetSet() {
		c.changedHeader(fmt.Sprintf("%s.set[%d].name", path, i), set.GetName())
		c.printable(fmt.Sprintf("%s.set[%d].value", path, i), set.GetValue())
	}
	for i, add := range h.GetAdd() {
		c.changedHeader(fmt.Sprintf("%s.add[%d].name", path, i), add.GetName())
		c.printable(fmt.Sprintf("%s.add[%d].value", path, i), add.GetValue())
	}
}

// faultInjection: traffic-policies 10.1, with natural paths (decision 12.21).
func (c *check) faultInjection(s *meshv1.MeshFaultInjection) {
	c.top(mesh.KindMeshFaultInjection, s.GetTargetRef(), len(s.GetFrom())+len(s.GetRules()) > 0)
	gateways := includesGateways(s.GetTargetRef())
	if len(s.GetRules()) > 0 && len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with from: make two policies")
	}
	if len(s.GetTo()) > 0 {
		if !gateways {
			c.add("spec.to", needsGateways)
		}
		c.warn("spec.to", noGateways)
	}
	if len(s.GetFrom()) > 0 {
		if gateways {
			c.add("spec.from", needsSidecars)
		}
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: []string{"Mesh"}})
		c.faults(path+".default.http", to.GetDefault().GetHttp())
	}
	for i, from := range s.GetFrom() {
		path := fmt.Sprintf("spec.from[%d]", i)
		c.callerTarget(path+".targetRef", from.GetTargetRef())
		c.faults(path+".default.http", from.GetDefault().GetHttp())
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
