package validate

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// devFile is there on every host, whatever user the proxy runs as.
var devFile = regexp.MustCompile(`^/dev/[a-zA-Z0-9_]+$`)

// slowStart is how long the first health checks may keep a starting proxy waiting without a warning: the
// default of their timeout.
const slowStart = 15 * time.Second

func (c *check) slowStart(path string, d *durationpb.Duration) {
	if d.AsDuration() > slowStart {
		c.warn(path, "a proxy that starts uses the destination only after its first checks, up to %v later",
			d.AsDuration())
	}
}

// checkedPath is what a check requests: a path, and perhaps a query.
func (c *check) checkedPath(path, value string) {
	p, query, _ := strings.Cut(value, "?")
	if value != "" && !strings.HasPrefix(value, "/") {
		c.add(path, "must begin with a slash")
	}
	c.encodedPath(path, p)
	c.printable(path, query)
	if strings.ContainsAny(query, " #") {
		c.add(path, "must not contain blanks or #")
	}
}

func meshHealthCheckRules(c *check, s *meshv1.MeshHealthCheck) {
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d].default", i), to.GetDefault()
		if conf.GetHttp() == nil && conf.GetTcp() == nil && conf.GetGrpc() == nil {
			c.add(path, "needs at least one of http, tcp and grpc")
		}
		c.period(path+".interval", conf.GetInterval())
		c.positive(path+".timeout", conf.GetTimeout())
		c.positive(path+".initialJitter", conf.GetInitialJitter())
		c.positive(path+".intervalJitter", conf.GetIntervalJitter())
		// Envoy uses a destination when the first checks of its instances are over.
		c.slowStart(path+".timeout", conf.GetTimeout())
		c.slowStart(path+".initialJitter", conf.GetInitialJitter())
		c.period(path+".noTrafficInterval", conf.GetNoTrafficInterval())
		if conf.GetHealthyPanicThreshold() != nil {
			c.warn(path+".healthyPanicThreshold",
				"is deprecated here: use outlierDetection.healthyPanicThreshold of MeshCircuitBreaker")
		}
		c.percentage(path+".healthyPanicThreshold", conf.GetHealthyPanicThreshold())
		if p := conf.GetEventLogPath(); conf != nil && conf.EventLogPath != nil &&
			!devFile.MatchString(p) {
			c.add(
				path+".eventLogPath",
				"must be a file below /dev, such as /dev/stdout: a proxy that cannot open "+
					"it refuses the whole destination",
			)
		}
		if http := conf.GetHttp(); http != nil && http.Path != nil {
			c.checkedPath(path+".http.path", http.GetPath())
		}
		c.headerAdditions(path+".http.requestHeadersToAdd", conf.GetHttp().GetRequestHeadersToAdd())
		c.printable(path+".grpc.authority", conf.GetGrpc().GetAuthority())
	}
}
