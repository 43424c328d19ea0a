package translate

import (
	"encoding/hex"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	sinkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/health_check/event_sinks/file/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshHealthCheckCluster(out *clusterMessage, c *ir.Cluster) error {
	if c.FailOnPanic && !c.LocalityWeighted { // Envoy has room for one of the two
		out.common().LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_{
			ZoneAwareLbConfig: &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig{FailTrafficOnPanic: true}}
	}
	if h, ok := c.HealthCheck.Get(); ok {
		check, err := healthCheck(h)
		if err != nil {
			return err
		}
		out.HealthChecks = []*corev3.HealthCheck{check}
	}
	return nil
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
