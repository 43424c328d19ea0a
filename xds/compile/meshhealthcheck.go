package compile

import (
	"fmt"
	"time"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Checks when a MeshHealthCheck leaves a field out.
const (
	checkInterval  = time.Minute
	checkTimeout   = 15 * time.Second
	checkUnhealthy = 5
	checkHealthy   = 1
)

// meshHealthCheckTo writes the one check that the port's protocol calls for.
func meshHealthCheckTo(e policy.Effective, p Port, out *OutboundConfig) {
	conf, _ := e.Conf.(*meshv1.MeshHealthCheck_Conf)
	out.Cluster.HealthCheck, out.Cluster.Panic = ir.Shared[ir.HealthCheck]{}, defaultPanic
	out.Cluster.FailOnPanic = conf.GetFailTrafficOnPanic()
	if conf.GetHealthyPanicThreshold() != nil {
		out.Cluster.Panic.Percent = decimal(conf.GetHealthyPanicThreshold(), 0)
	}
	protocol := checkProtocol(conf, p.Protocol)
	if protocol == "" {
		return
	}
	c := ir.HealthCheck{
		Protocol:              protocol,
		Interval:              max(or(conf.GetInterval(), checkInterval), minPeriod),
		Timeout:               or(conf.GetTimeout(), checkTimeout),
		Unhealthy:             orUint(conf.UnhealthyThreshold, checkUnhealthy),
		Healthy:               orUint(conf.HealthyThreshold, checkHealthy),
		InitialJitter:         or(conf.GetInitialJitter(), 0),
		IntervalJitter:        or(conf.GetIntervalJitter(), 0),
		IntervalJitterPercent: conf.GetIntervalJitterPercent(),
		OneShot:               conf.ReuseConnection != nil && !conf.GetReuseConnection(),
		LogPath:               conf.GetEventLogPath(),
		LogAlways:             conf.GetAlwaysLogHealthCheckFailures(),
	}
	// Envoy's own default checks a cluster that has had no request yet once a minute: the first
	// requests would meet dead instances although the policy says every five seconds.
	c.NoTraffic = max(or(conf.GetNoTrafficInterval(), c.Interval), minPeriod)
	switch protocol {
	case ir.TCP:
		c.Send, c.Receive = conf.GetTcp().GetSend(), conf.GetTcp().GetReceive()
	case ir.GRPC:
		c.Service, c.Authority = conf.GetGrpc().GetServiceName(), conf.GetGrpc().GetAuthority()
	default:
		c.Path = "/"
		if conf.GetHttp().Path != nil {
			c.Path = conf.GetHttp().GetPath()
		}
		c.Expected = conf.GetHttp().GetExpectedStatuses()
		c.Headers = additions(conf.GetHttp().GetRequestHeadersToAdd())
	}
	out.Cluster.HealthCheck = ir.Share(c)
}

// checkProtocol is the protocol of the one check of a port: the section of the port's protocol, or
// TCP if that section is there and disabled. Empty: no check.
func checkProtocol(conf *meshv1.MeshHealthCheck_Conf, port ir.Protocol) ir.Protocol {
	tcp := conf.GetTcp() != nil && !conf.GetTcp().GetDisabled()
	own, disabled := false, false
	switch port {
	case ir.HTTP1, ir.HTTP2:
		own, disabled = conf.GetHttp() != nil, conf.GetHttp().GetDisabled()
	case ir.GRPC:
		own, disabled = conf.GetGrpc() != nil, conf.GetGrpc().GetDisabled()
	case ir.TCP:
		own, disabled = conf.GetTcp() != nil, conf.GetTcp().GetDisabled()
	}
	switch {
	case own && !disabled:
		return port
	case own && tcp:
		return ir.TCP
	}
	return ""
}

// additions does not split values at commas, which Kuma does: a value may contain one.
func additions(h *meshv1.HeaderAdditions) ir.HeaderEdit {
	var out ir.HeaderEdit
	for _, s := range h.GetSet() {
		out.Set = append(out.Set, ir.Header{Name: s.GetName(), Value: s.GetValue()})
	}
	for _, a := range h.GetAdd() {
		out.Add = append(out.Add, ir.Header{Name: a.GetName(), Value: a.GetValue()})
	}
	return out
}

// FailsWithoutHealthy says that requests fail while a destination has no healthy instance. Unhealthy
// ones are tried otherwise.
func FailsWithoutHealthy(c *ir.ClusterPolicy) bool { return c.FailOnPanic }

func meshHealthCheckClusterEffects(c *ir.ClusterPolicy) []Effect {
	check, ok := c.HealthCheck.Get()
	if !ok {
		return nil
	}
	return []Effect{{
		Stage:   StageCheck,
		Subject: "health check",
		Fields:  []string{"interval", "http", "tcp", "grpc"},
		Text:    fmt.Sprintf("the sidecar asks every instance each %s (%s)", check.Interval, check.Protocol),
	}}
}
