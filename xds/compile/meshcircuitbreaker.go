package compile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// What clusters of destinations do without a policy (package translate says why). A limit that
// a policy leaves out is the default's. A policy that says something of outlier detection replaces
// all of it: its detectors are the only ones.
var (
	defaultLimits = ir.Limits{
		Connections: 1024,
		Pending:     1024,
		Requests:    1024,
		Retries:     1024,
	}
	defaultOutlier = ir.Outlier{
		Enabled:         true,
		Interval:        time.Second,
		BaseEjection:    5 * time.Second,
		MaxEjection:     30 * time.Second,
		MaxPercent:      100,
		Split:           true,
		GatewayFailures: 3,
		LocalFailures:   3,
	}
	defaultPanic = ir.Panic{Set: true, Percent: 1}
)

// What Envoy does when a policy leaves out a field of outlier detection.
const (
	outlierInterval     = 10 * time.Second
	outlierBase         = 30 * time.Second
	outlierPercent      = 10
	outlierLongest      = 5 * time.Minute
	outlierLongestTimes = 6
)

func meshCircuitBreakerTo(e policy.Effective, _ Port, out *OutboundConfig) {
	conf, _ := e.Conf.(*meshv1.MeshCircuitBreaker_Conf)
	out.Cluster.Limits = limits(conf.GetConnectionLimits(), defaultLimits)
	out.Cluster.Outlier = defaultOutlier
	if o := conf.GetOutlierDetection(); o != nil {
		out.Cluster.Outlier = outlier(o)
		setPanic(&out.Cluster, o)
	}
}

// meshCircuitBreakerInbound is about the local workload alone: an ejection acts only with a panic
// threshold of 0, for one endpoint out of one is always more than half.
func meshCircuitBreakerInbound(in policy.Inbound, out *InboundConfig) {
	conf, _ := in.CatchAll.Conf.(*meshv1.MeshCircuitBreaker_Conf)
	out.Cluster.Limits = limits(conf.GetConnectionLimits(), ir.Limits{})
	if o := conf.GetOutlierDetection(); o != nil {
		out.Cluster.Outlier = outlier(o)
		setPanic(&out.Cluster, o)
	}
}

// setPanic overrides that of MeshHealthCheck, which comes before.
func setPanic(c *ir.ClusterPolicy, o *meshv1.MeshCircuitBreaker_OutlierDetection) {
	if o.HealthyPanicThreshold != nil && !o.GetDisabled() {
		c.Panic = ir.Panic{Set: true, Percent: decimal(o.GetHealthyPanicThreshold(), 0)}
	}
}

func limits(c *meshv1.MeshCircuitBreaker_ConnectionLimits, l ir.Limits) ir.Limits {
	set := func(to *uint32, v *uint32) {
		if v != nil {
			*to = *v
		}
	}
	if c != nil {
		set(&l.Connections, c.MaxConnections)
		set(&l.Pools, c.MaxConnectionPools)
		set(&l.Pending, c.MaxPendingRequests)
		set(&l.Requests, c.MaxRequests)
		set(&l.Retries, c.MaxRetries)
	}
	return l
}

// outlier reads the detectors that are given; the others are off. However few endpoints there are,
// one may be ejected: ten percent of two is none, and a breaker that never opens is not what its
// author meant. 0 percent says so and ejects none.
func outlier(o *meshv1.MeshCircuitBreaker_OutlierDetection) ir.Outlier {
	if o.GetDisabled() {
		return ir.Outlier{}
	}
	d := o.GetDetectors()
	out := ir.Outlier{
		Enabled:         true,
		Interval:        max(or(o.GetInterval(), outlierInterval), minPeriod),
		BaseEjection:    or(o.GetBaseEjectionTime(), outlierBase),
		MaxPercent:      outlierPercent,
		Split:           o.GetSplitExternalAndLocalErrors(),
		TotalFailures:   d.GetTotalFailures().GetConsecutive(),
		GatewayFailures: d.GetGatewayFailures().GetConsecutive(),
		LocalFailures:   d.GetLocalOriginFailures().GetConsecutive(),
	}
	if o.MaxEjectionPercent != nil {
		out.MaxPercent = o.GetMaxEjectionPercent()
	}
	out.AtLeastOne = out.MaxPercent > 0 && out.MaxPercent < 100
	// Who asks for short ejections does not want one of five minutes in the end.
	out.MaxEjection = max(out.BaseEjection, min(outlierLongest, outlierLongestTimes*out.BaseEjection))
	if s := d.GetSuccessRate(); s != nil {
		out.SuccessRate = ir.SuccessRate{
			Enabled:   true,
			MinHosts:  orUint(s.MinimumHosts, 5),
			MinVolume: orUint(s.RequestVolume, 100),
			Factor:    uint32(min(decimal(s.GetStandardDeviationFactor(), 1.9)*1000+1e-6, math.MaxUint32)),
		}
	}
	if f := d.GetFailurePercentage(); f != nil {
		out.FailurePercentage = ir.FailurePercentage{
			Enabled:   true,
			MinHosts:  orUint(f.MinimumHosts, 5),
			MinVolume: orUint(f.RequestVolume, 50),
			Threshold: orUint(f.Threshold, 85),
		}
	}
	return out
}

func orUint(v *uint32, def uint32) uint32 {
	if v == nil {
		return def
	}
	return *v
}

// decimal reads a number; any other text is the default.
func decimal(v *meshv1.IntOrString, def float64) float64 {
	switch v := v.GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		return float64(v.IntValue)
	case *meshv1.IntOrString_StringValue:
		if f, err := strconv.ParseFloat(v.StringValue, 64); err == nil && !math.IsNaN(f) &&
			!math.IsInf(f, 0) {
			return f
		}
	}
	return def
}

func meshCircuitBreakerClusterEffects(c *ir.ClusterPolicy) []Effect {
	var out []Effect
	var bounds []string
	for _, l := range []struct {
		n    uint32
		what string
	}{{c.Limits.Connections, "connections"}, {c.Limits.Pending, "waiting requests"},
		{c.Limits.Requests, "requests in flight"}, {c.Limits.Retries, "retries in flight"}} {
		if l.n > 0 {
			bounds = append(bounds, fmt.Sprintf("%d %s", l.n, l.what))
		}
	}
	if len(bounds) > 0 {
		out = append(out, Effect{
			Stage:   StageLimit,
			Subject: "limit",
			Fields:  []string{"connectionLimits"},
			Text: fmt.Sprintf("this sidecar has at most %s; more are answered 503",
				strings.Join(bounds, ", ")),
		})
	}
	if c.Outlier.Enabled {
		out = append(out, Effect{
			Stage:   StageLimit,
			Subject: "ejection",
			Fields:  []string{"outlierDetection"},
			Text:    outlierText(c.Outlier),
		})
	}
	return out
}

func outlierText(o ir.Outlier) string {
	var by []string
	add := func(n uint32, what string) {
		if n > 0 {
			by = append(by, fmt.Sprintf("%d %s in a row", n, what))
		}
	}
	add(o.TotalFailures, "errors")
	add(o.GatewayFailures, "gateway errors")
	add(o.LocalFailures, "failures to connect")
	if o.SuccessRate.Enabled {
		by = append(by, "a success rate far below the others'")
	}
	if o.FailurePercentage.Enabled {
		by = append(by, fmt.Sprintf("%d %% of failures", o.FailurePercentage.Threshold))
	}
	return fmt.Sprintf("an instance is left out for %s after %s", o.BaseEjection, strings.Join(by, " or "))
}
