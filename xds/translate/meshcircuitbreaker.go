package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshCircuitBreakerCluster(out *clusterMessage, c *ir.Cluster) error {
	out.CircuitBreakers, out.OutlierDetection = thresholds(c.Limits), outlier(c.Outlier)
	if c.Panic.Set {
		out.common().HealthyPanicThreshold = &typev3.Percent{Value: min(max(c.Panic.Percent, 0), 100)}
	}
	return nil
}

// thresholds is nil without limits.
func thresholds(l ir.Limits) *clusterv3.CircuitBreakers {
	if l == (ir.Limits{}) {
		return nil
	}
	set := func(v uint32) *wrapperspb.UInt32Value {
		if v == 0 {
			return nil
		}
		return u32(v)
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     set(l.Connections),
		MaxConnectionPools: set(l.Pools),
		MaxPendingRequests: set(l.Pending),
		MaxRequests:        set(l.Requests),
		MaxRetries:         set(l.Retries),
		TrackRemaining:     true,
	}}}
}

// outlier is nil if nothing is ejected. Detectors that are not asked for are switched off by name:
// Envoy would enforce all but the failure percentage by default.
func outlier(o ir.Outlier) *clusterv3.OutlierDetection {
	if !o.Enabled {
		return nil
	}
	out := &clusterv3.OutlierDetection{
		Interval:                               durationpb.New(o.Interval),
		BaseEjectionTime:                       durationpb.New(o.BaseEjection),
		MaxEjectionTime:                        durationpb.New(o.MaxEjection),
		MaxEjectionPercent:                     u32(o.MaxPercent),
		SplitExternalLocalOriginErrors:         o.Split,
		EnforcingConsecutive_5Xx:               u32(0),
		EnforcingConsecutiveGatewayFailure:     u32(0),
		EnforcingConsecutiveLocalOriginFailure: u32(0),
		EnforcingSuccessRate:                   u32(0),
		EnforcingLocalOriginSuccessRate:        u32(0),
	}
	if o.AtLeastOne {
		out.AlwaysEjectOneHost = wrapperspb.Bool(true)
	}
	if o.TotalFailures > 0 {
		out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx = u32(o.TotalFailures), u32(100)
	}
	if o.GatewayFailures > 0 {
		out.ConsecutiveGatewayFailure, out.EnforcingConsecutiveGatewayFailure = u32(o.GatewayFailures),
			u32(100)
	}
	if o.LocalFailures > 0 {
		out.ConsecutiveLocalOriginFailure, out.EnforcingConsecutiveLocalOriginFailure = u32(o.LocalFailures),
			u32(100)
	}
	if s := o.SuccessRate; s.Enabled {
		out.SuccessRateMinimumHosts = u32(s.MinHosts)
		out.SuccessRateRequestVolume = u32(s.MinVolume)
		out.SuccessRateStdevFactor = u32(s.Factor)
		out.EnforcingSuccessRate, out.EnforcingLocalOriginSuccessRate = u32(100), u32(100)
	}
	if f := o.FailurePercentage; f.Enabled {
		out.FailurePercentageMinimumHosts = u32(f.MinHosts)
		out.FailurePercentageRequestVolume = u32(f.MinVolume)
		out.FailurePercentageThreshold = u32(f.Threshold)
		out.EnforcingFailurePercentage, out.EnforcingFailurePercentageLocalOrigin = u32(100), u32(100)
	}
	return out
}
