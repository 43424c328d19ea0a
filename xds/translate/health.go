package translate

import (
	"encoding/hex"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	sinkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/health_check/event_sinks/file/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

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
		out.SuccessRateMinimumHosts, out.SuccessRateRequestVolume, out.SuccessRateStdevFactor = u32(
			s.MinHosts), u32(s.MinVolume), u32(s.Factor)
		out.EnforcingSuccessRate, out.EnforcingLocalOriginSuccessRate = u32(100), u32(100)
	}
	if f := o.FailurePercentage; f.Enabled {
		out.FailurePercentageMinimumHosts, out.FailurePercentageRequestVolume, out.FailurePercentageThreshold = u32(f.MinHosts), u32(f.MinVolume), u32(f.Threshold)
		out.EnforcingFailurePercentage, out.EnforcingFailurePercentageLocalOrigin = u32(100), u32(100)
	}
	return out
}

func healthCheck(h ir.HealthCheck) (*corev3.HealthCheck, error) {
	out := &corev3.HealthCheck{
		Interval:                     durationpb.New(h.Interval),
		Timeout:                      durationpb.New(h.Timeout),
		NoTrafficInterval:            durationpb.New(h.NoTraffic),
		UnhealthyThreshold:           u32(h.Unhealthy),
		HealthyThreshold:             u32(h.Healthy),
		IntervalJitterPercent:        h.IntervalJitterPercent,
		AlwaysLogHealthCheckFailures: h.LogAlways,
	}
	if h.InitialJitter > 0 {
		out.InitialJitter = durationpb.New(h.InitialJitter)
	}
	if h.IntervalJitter > 0 {
		out.IntervalJitter = durationpb.New(h.IntervalJitter)
	}
	if h.OneShot {
		out.ReuseConnection = wrapperspb.Bool(false)
	}
	if h.LogPath != "" {
		a, err := pack(&sinkv3.HealthCheckEventFileSink{EventLogPath: h.LogPath})
		if err != nil {
			return nil, err
		}
		out.EventLogger = []*corev3.TypedExtensionConfig{{
			Name:        "envoy.health_check.event_sink.file",
			TypedConfig: a,
		}}
	}
	switch h.Protocol {
	case ir.TCP:
		t := &corev3.HealthCheck_TcpHealthCheck{}
		if len(h.Send) > 0 {
			t.Send = payload(h.Send)
		}
		for _, b := range h.Receive {
			t.Receive = append(t.Receive, payload(b))
		}
		out.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: t}
	case ir.GRPC:
		out.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{
			GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{
				ServiceName: h.Service,
				Authority:   h.Authority,
			}}
	default:
		c := &corev3.HealthCheck_HttpHealthCheck{
			Path:                h.Path,
			CodecClientType:     typev3.CodecClientType_HTTP1,
			RequestHeadersToAdd: headers(h.Headers),
		}
		if h.Protocol == ir.HTTP2 {
			c.CodecClientType = typev3.CodecClientType_HTTP2
		}
		for _, s := range h.Expected {
			c.ExpectedStatuses = append(c.ExpectedStatuses, &typev3.Int64Range{
				Start: int64(s),
				End:   int64(s) + 1,
			})
		}
		out.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: c}
	}
	return out, nil
}

func payload(b []byte) *corev3.HealthCheck_Payload {
	return &corev3.HealthCheck_Payload{Payload: &corev3.HealthCheck_Payload_Text{Text: hex.EncodeToString(b)}}
}

// tagMetadata is where load balancing looks for the tags of an endpoint.
func tagMetadata(tags map[string]string) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	for k, v := range tags {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb": {Fields: fields}}}
}
