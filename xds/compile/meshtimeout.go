package compile

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Timeouts when no policy says anything.
const (
	DefaultConnect    = 5 * time.Second
	DefaultIdle       = time.Hour
	DefaultRequest    = 15 * time.Second
	DefaultStreamIdle = 30 * time.Minute
)

func timeoutCluster(conf *meshv1.MeshTimeout_Conf) ir.ClusterTimeouts {
	return ir.ClusterTimeouts{
		Connect:       or(conf.GetConnectionTimeout(), DefaultConnect),
		Idle:          or(conf.GetIdleTimeout(), DefaultIdle),
		MaxStream:     or(conf.GetHttp().GetMaxStreamDuration(), 0),
		MaxConnection: or(conf.GetHttp().GetMaxConnectionDuration(), 0),
	}
}

func timeoutRoute(conf *meshv1.MeshTimeout_Conf) ir.RouteTimeouts {
	return ir.RouteTimeouts{Request: or(conf.GetHttp().GetRequestTimeout(), DefaultRequest),
		StreamIdle: or(conf.GetHttp().GetStreamIdleTimeout(), DefaultStreamIdle)}
}

// meshTimeoutTo fills in the defaults, field by field. Callers' connections of HTTP never end for being
// idle: those to the destination do.
func meshTimeoutTo(e policy.Effective, p Port, out *OutboundConfig) {
	conf, _ := e.Conf.(*meshv1.MeshTimeout_Conf)
	out.Cluster.Timeouts = timeoutCluster(conf)
	if p.Protocol.IsHTTP() {
		out.Route.Timeouts = timeoutRoute(conf)
		out.Listener.RequestHeaders = or(conf.GetHttp().GetRequestHeadersTimeout(), 0)
	} else {
		out.Listener.Idle = out.Cluster.Timeouts.Idle
	}
}

func meshTimeoutInbound(in policy.Inbound, out *InboundConfig) {
	conf, _ := in.CatchAll.Conf.(*meshv1.MeshTimeout_Conf)
	out.Cluster.Timeouts, out.Route.Timeouts = timeoutCluster(conf), timeoutRoute(conf)
	out.Listener.RequestHeaders, out.Listener.Idle = or(conf.GetHttp().GetRequestHeadersTimeout(), 0),
		out.Cluster.Timeouts.Idle
}

// meshTimeoutCaller changes only what concerns a request.
func meshTimeoutCaller(c policy.Conditioned, route *ir.RoutePolicy) {
	conf, _ := c.Conf.(*meshv1.MeshTimeout_Conf)
	route.Timeouts.Request = or(conf.GetHttp().GetRequestTimeout(), route.Timeouts.Request)
	route.Timeouts.StreamIdle = or(conf.GetHttp().GetStreamIdleTimeout(), route.Timeouts.StreamIdle)
}

func or(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}

func timeoutEffect(stage Stage, field, text string) Effect {
	return Effect{
		Stage:   stage,
		Subject: "timeout",
		Fields:  []string{field},
		Text:    text,
	}
}

func meshTimeoutRequestEffects(r *ir.RoutePolicy, _ Request) []Effect {
	return []Effect{
		timeoutEffect(StageRequest, "http.requestTimeout",
			limitText(r.Timeouts.Request)+" for the whole request, tries and pauses included"),
		timeoutEffect(StageRequest, "http.streamIdleTimeout",
			limitText(r.Timeouts.StreamIdle)+" without a byte in either direction"),
	}
}

func meshTimeoutConnectionEffects(l *ir.ListenerPolicy) []Effect {
	return []Effect{timeoutEffect(StageRequest, "idleTimeout",
		limitText(l.Idle)+" without a byte in either direction")}
}

func meshTimeoutClusterEffects(c *ir.ClusterPolicy) []Effect {
	return []Effect{timeoutEffect(StageConnection, "connectionTimeout",
		limitText(c.Timeouts.Connect)+" to connect to an instance")}
}

func meshTimeoutInboundEffects(_ *InboundConfig, q InboundRequest) []Effect {
	if !q.HTTP {
		return nil
	}
	return []Effect{timeoutEffect(StageRequest, "http.requestTimeout",
		limitText(q.Route.Timeouts.Request)+" for the application's whole answer")}
}
