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

// timeoutTo fills in the defaults, field by field. Callers' connections of HTTP never end for being
// idle: those to the destination do.
func timeoutTo(e policy.Effective, p Port, out *OutboundConf) {
	conf, _ := e.Conf.(*meshv1.MeshTimeout_Conf)
	out.Cluster.Timeouts = timeoutCluster(conf)
	if p.Protocol.IsHTTP() {
		out.Route.Timeouts = timeoutRoute(conf)
		out.Listener.RequestHeaders = or(conf.GetHttp().GetRequestHeadersTimeout(), 0)
	} else {
		out.Listener.Idle = out.Cluster.Timeouts.Idle
	}
}

func timeoutInbound(c InboundContext, out *InboundConf) {
	conf, _ := c.Merged.CatchAll.Conf.(*meshv1.MeshTimeout_Conf)
	out.Cluster.Timeouts, out.Route.Timeouts = timeoutCluster(conf), timeoutRoute(conf)
	out.Listener.RequestHeaders, out.Listener.Idle = or(conf.GetHttp().GetRequestHeadersTimeout(), 0),
		out.Cluster.Timeouts.Idle
}

// timeoutCaller changes only what concerns a request.
func timeoutCaller(_ policy.Inbound, c policy.Conditioned, route *ir.RoutePolicy) bool {
	conf, _ := c.Conf.(*meshv1.MeshTimeout_Conf)
	route.Timeouts.Request = or(conf.GetHttp().GetRequestTimeout(), route.Timeouts.Request)
	route.Timeouts.StreamIdle = or(conf.GetHttp().GetStreamIdleTimeout(), route.Timeouts.StreamIdle)
	return true
}

func or(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}
