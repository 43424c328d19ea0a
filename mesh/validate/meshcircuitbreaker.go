package validate

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// circuitBreaker has the rules of its kind.
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
