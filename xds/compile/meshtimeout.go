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

// Validation bounds what becomes a size, a loop or a period in Envoy. What merging, legacy kinds or a
// store of an older version bring past it is bounded here again: one number could stop a proxy.
const (
	// minPeriod is the shortest time between two checks or sweeps, minFill that of a token bucket.
	minPeriod = 100 * time.Millisecond
	minFill   = 50 * time.Millisecond
	// maxTries bounds retries, connection attempts and updates of priorities, for each of which Envoy
	// reserves memory for every request.
	maxTries = 100
	// maxSelections bounds how often a host is drawn again for one retry.
	maxSelections = 1000
)

// or is d, or def if there is none. Envoy counts in milliseconds and would take less for none.
func or(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	if v := d.AsDuration(); v <= 0 || v >= time.Millisecond {
		return v
	}
	return time.Millisecond
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
