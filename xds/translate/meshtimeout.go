package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshTimeoutCluster(out *clusterMessage, c *ir.Cluster) error {
	out.ConnectTimeout = durationpb.New(c.Timeouts.Connect)
	if out.http == nil {
		return nil
	}
	out.http.IdleTimeout = durationpb.New(c.Timeouts.Idle)
	if c.Timeouts.MaxStream > 0 {
		out.http.MaxStreamDuration = durationpb.New(c.Timeouts.MaxStream)
	}
	if c.Timeouts.MaxConnection > 0 {
		out.http.MaxConnectionDuration = durationpb.New(c.Timeouts.MaxConnection)
	}
	return nil
}

func meshTimeoutRoute(out *routev3.Route, r *ir.Route, _ *ir.RouteConfig) error {
	if a := out.GetRoute(); a != nil {
		a.Timeout = durationpb.New(r.Timeouts.Request)
		a.IdleTimeout = durationpb.New(r.Timeouts.StreamIdle)
	}
	return nil
}

func meshTimeoutRequests(out *managerMessage, c *ir.Chain) error {
	if c.RequestHeaders > 0 {
		out.RequestHeadersTimeout = durationpb.New(c.RequestHeaders)
	}
	return nil
}

func meshTimeoutConnections(out *tcpv3.TcpProxy, c *ir.Chain) {
	if c.Idle > 0 {
		out.IdleTimeout = durationpb.New(c.Idle)
	}
}

// meshTimeoutCall bounds the whole call: gRPC libraries know no other timeout of a route.
func meshTimeoutCall(out *routev3.RouteAction, r *ir.Route) {
	out.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{
		MaxStreamDuration: durationpb.New(r.Timeouts.Request)}
}
