package validate

import (
	"fmt"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshCircuitBreakerRules(c *check, s *meshv1.MeshCircuitBreaker) {
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
		c.breaker(fmt.Sprintf("spec.to[%d].default", i), to.GetDefault())
	}
	for i, from := range s.GetFrom() {
		c.breaker(fmt.Sprintf("spec.from[%d].default", i), from.GetDefault())
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
	c.period(path+".interval", o.GetInterval())
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
