package validate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// destinations are what a policy about callers' sides may be about.
var destinations = []string{"Mesh", "MeshService", "MeshExternalService", "MeshMultiZoneService"}

// healthCheck: traffic-policies 6.1.
func (c *check) healthCheck(s *meshv1.MeshHealthCheck) {
	c.top(mesh.KindMeshHealthCheck, s.GetTargetRef(), false)
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d]", i), to.GetDefault()
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: destinations})
		path += ".default"
		if conf.GetHttp() == nil && conf.GetTcp() == nil && conf.GetGrpc() == nil {
			c.add(path, "needs at least one of http, tcp and grpc")
		}
		c.positive(path+".interval", conf.GetInterval())
		c.positive(path+".timeout", conf.GetTimeout())
		c.positive(path+".initialJitter", conf.GetInitialJitter())
		c.positive(path+".intervalJitter", conf.GetIntervalJitter())
		c.positive(path+".noTrafficInterval", conf.GetNoTrafficInterval())
		if conf.GetHealthyPanicThreshold() != nil {
			c.warn(path+".healthyPanicThreshold",
				"is deprecated here: use outlierDetection.healthyPanicThreshold of MeshCircuitBreaker")
		}
		c.percentage(path+".healthyPanicThreshold", conf.GetHealthyPanicThreshold())
		if p := conf.GetEventLogPath(); conf != nil && conf.EventLogPath != nil &&
			(!strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.ContainsFunc(p, isControl)) {
			c.add(path+".eventLogPath", "must be the path of a file, such as /dev/stdout")
		}
		c.printable(path+".http.path", conf.GetHttp().GetPath())
		c.headerAdditions(path+".http.requestHeadersToAdd", conf.GetHttp().GetRequestHeadersToAdd())
		c.printable(path+".grpc.authority", conf.GetGrpc().GetAuthority())
	}
}

// circuitBreaker: traffic-policies 7.1, with decisions 12.20 and 12.21.
func (c *check) circuitBreaker(s *meshv1.MeshCircuitBreaker) {
	c.top(mesh.KindMeshCircuitBreaker, s.GetTargetRef(), len(s.GetFrom())+len(s.GetRules()) > 0)
	if len(s.GetTo())+len(s.GetFrom())+len(s.GetRules()) == 0 {
		c.add("spec", "needs at least one of to, rules and from")
	}
	if len(s.GetRules()) > 0 && len(s.GetTo())+len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with to or from: make two policies")
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: destinations})
		c.breaker(path+".default", to.GetDefault())
	}
	for i, from := range s.GetFrom() {
		path := fmt.Sprintf("spec.from[%d]", i)
		c.target(path+".targetRef", from.GetTargetRef(), level{kinds: []string{"Mesh"}})
		c.breaker(path+".default", from.GetDefault())
	}
	for i, rule := range s.GetRules() {
		c.breaker(fmt.Sprintf("spec.rules[%d].default", i), rule.GetDefault())
	}
}

func (c *check) breaker(path string, conf *meshv1.MeshCircuitBreaker_Conf) {
	o := conf.GetOutlierDetection()
	if conf.GetConnectionLimits() == nil && o == nil {
		c.add(path, "needs at least one of connectionLimits and outlierDetection")
	}
	if o == nil {
		return
	}
	path += ".outlierDetection"
	c.positive(path+".interval", o.GetInterval())
	c.positive(path+".baseEjectionTime", o.GetBaseEjectionTime())
	c.percentage(path+".healthyPanicThreshold", o.GetHealthyPanicThreshold())
	d := o.GetDetectors()
	switch {
	case d == nil && !o.GetDisabled():
		c.add(path+".detectors", "is required, unless outlierDetection is disabled")
	case d != nil && d.GetTotalFailures() == nil && d.GetGatewayFailures() == nil &&
		d.GetLocalOriginFailures() == nil &&
		d.GetSuccessRate() == nil && d.GetFailurePercentage() == nil:
		c.add(path+".detectors",
			"needs at least one of totalFailures, gatewayFailures, localOriginFailures, successRate and "+
				"failurePercentage")
	}
	at := path + ".detectors.successRate.standardDeviationFactor"
	if v, ok := c.number(at, d.GetSuccessRate().GetStandardDeviationFactor()); ok && (v <= 0 || v > 1e6) {
		c.add(at, "must be above 0 and at most 1000000")
	}
}

// retry: traffic-policies 8.1, with natural paths (decision 12.21).
func (c *check) retry(s *meshv1.MeshRetry) {
	c.top(mesh.KindMeshRetry, s.GetTargetRef(), false)
	kinds := slices.Concat(destinations, []string{"MeshHTTPRoute"})
	if top := s.GetTargetRef().GetKind(); top == "MeshGateway" || top == "MeshHTTPRoute" {
		kinds = []string{"Mesh", "MeshExternalService"}
	}
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d]", i), to.GetDefault()
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: kinds})
		path += ".default"
		if conf.GetTcp() == nil && conf.GetHttp() == nil && conf.GetGrpc() == nil {
			c.add(path, "needs at least one of http, grpc and tcp")
		}
		if t := conf.GetTcp(); t != nil && t.MaxConnectAttempt == nil {
			c.add(path+".tcp", "needs maxConnectAttempt")
		}
		if h := conf.GetHttp(); h != nil {
			c.httpRetry(path+".http", h)
		}
		if g := conf.GetGrpc(); g != nil {
			at := path + ".grpc"
			if g.NumRetries == nil && g.GetPerTryTimeout() == nil && g.GetBackOff() == nil &&
				g.GetRateLimitedBackOff() == nil && len(g.GetRetryOn()) == 0 {
				c.add(at, "needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff "+
					"and retryOn")
			}
			c.notNegative(at+".perTryTimeout", g.GetPerTryTimeout())
			c.backOff(at, g.GetBackOff(), g.GetRateLimitedBackOff())
		}
	}
}

func (c *check) httpRetry(path string, h *meshv1.MeshRetry_Http) {
	if h.NumRetries == nil && h.GetPerTryTimeout() == nil && h.GetBackOff() == nil &&
		h.GetRateLimitedBackOff() == nil && len(h.GetRetryOn()) == 0 &&
		len(h.GetRetriableRequestHeaders()) == 0 && len(h.GetRetriableResponseHeaders()) == 0 &&
		len(h.GetHostSelection()) == 0 {
		c.add(path, "needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff, retryOn, "+
			"retriableRequestHeaders, retriableResponseHeaders and hostSelection")
	}
	c.notNegative(path+".perTryTimeout", h.GetPerTryTimeout())
	c.backOff(path, h.GetBackOff(), h.GetRateLimitedBackOff())
	for i, item := range h.GetRetryOn() {
		if !slices.Contains(mesh.HTTPRetryOn, item) && !mesh.IsStatusCode(item) {
			c.add(fmt.Sprintf("%s.retryOn[%d]", path, i),
				"must be a status code of HTTP in quotes or one of %s", strings.Join(mesh.HTTPRetryOn, ", "))
		}
	}
	for i, m := range h.GetRetriableRequestHeaders() {
		c.headerMatch(fmt.Sprintf("%s.retriableRequestHeaders[%d]", path, i), m)
	}
	for i, m := range h.GetRetriableResponseHeaders() {
		c.headerMatch(fmt.Sprintf("%s.retriableResponseHeaders[%d]", path, i), m)
	}
	priorities := false
	for i, s := range h.GetHostSelection() {
		at := fmt.Sprintf("%s.hostSelection[%d]", path, i)
		switch s.GetPredicate() {
		case "OmitHostsWithTags":
			if len(s.GetTags()) == 0 {
				c.add(at+".tags", "is required for OmitHostsWithTags")
			}
			c.tags(at+".tags", s.GetTags(), false)
		case "OmitPreviousPriorities":
			if priorities {
				c.add(at+".predicate", "OmitPreviousPriorities is given twice")
			}
			priorities = true
			if s.UpdateFrequency != nil && (s.GetUpdateFrequency() == 0 || s.GetUpdateFrequency() > 1<<31-1) {
				c.add(at+".updateFrequency", "must be greater than 0 and at most 2147483647")
			}
		}
	}
}

// backOff: the base must not be above the maximum, which Envoy would refuse.
func (c *check) backOff(path string, b *meshv1.MeshRetry_BackOff,
	limited *meshv1.MeshRetry_RateLimitedBackOff) {
	if b != nil {
		low, high := b.GetBaseInterval(), b.GetMaxInterval()
		if low == nil && high == nil {
			c.add(path+".backOff", "needs at least one of baseInterval and maxInterval")
		}
		c.positive(path+".backOff.baseInterval", low)
		c.positive(path+".backOff.maxInterval", high)
		if low != nil && high != nil && low.AsDuration() > high.AsDuration() {
			c.add(path+".backOff.maxInterval", "must not be shorter than baseInterval")
		}
	}
	c.positive(path+".rateLimitedBackOff.maxInterval", limited.GetMaxInterval())
	for i, h := range limited.GetResetHeaders() {
		c.headerName(fmt.Sprintf("%s.rateLimitedBackOff.resetHeaders[%d].name", path, i), h.GetName())
	}
}
