package validate

import (
	"fmt"
	"strings"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshHealthCheckRules(c *check, s *meshv1.MeshHealthCheck) {
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d].default", i), to.GetDefault()
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
