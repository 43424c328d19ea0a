package translate

import (
	"cmp"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// Listener is the Envoy listener.
func Listener(l ir.Listener) (*listenerv3.Listener, error) {
	out := &listenerv3.Listener{
		Name:             l.Name,
		Address:          address(l.Address, l.Port),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		StatPrefix:       statName(l.Name),
	}
	if l.Inbound {
		out.TrafficDirection = corev3.TrafficDirection_INBOUND
	}
	if l.Unbound {
		out.BindToPort = wrapperspb.Bool(false)
	}
	if l.OriginalDst {
		out.UseOriginalDst = wrapperspb.Bool(true)
	}
	if l.ReusePort {
		out.EnableReusePort = wrapperspb.Bool(true)
	}
	if l.TLSInspector {
		a, err := pack(&inspectorv3.TlsInspector{})
		if err != nil {
			return nil, err
		}
		out.ListenerFilters = append(out.ListenerFilters, &listenerv3.ListenerFilter{
			Name:       "envoy.filters.listener.tls_inspector",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a},
		})
	}
	for i := range l.Chains {
		fc, err := chain(&l, &l.Chains[i])
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		out.FilterChains = append(out.FilterChains, fc)
	}
	if len(out.FilterChains) == 0 {
		// Nothing is served yet: connections are taken and closed, for a listener without chains is refused.
		f, err := filter("envoy.filters.network.direct_response", &directv3.Config{})
		if err != nil {
			return nil, err
		}
		out.FilterChains = []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{f}}}
	}
	return out, nil
}

func chain(l *ir.Listener, c *ir.Chain) (*listenerv3.FilterChain, error) {
	out := &chainMessage{}
	out.Name = c.Name
	out.Filters = make([]*listenerv3.Filter, 0, 3)
	if c.Transport != "" || len(c.ALPN) > 0 || len(c.ServerNames) > 0 {
		out.FilterChainMatch = &listenerv3.FilterChainMatch{
			TransportProtocol:    c.Transport,
			ApplicationProtocols: c.ALPN,
			ServerNames:          c.ServerNames,
		}
	}
	if c.TLS != "" {
		ts, err := downstreamTLS(c.TLS)
		if err != nil {
			return nil, err
		}
		out.TransportSocket = ts
	}
	if c.HTTP != nil && c.HTTP.Callers {
		if err := out.add("envoy.filters.network.set_filter_state", callerState()); err != nil {
			return nil, err
		}
	}
	for i := range kinds {
		k := &kinds[i]
		if k.network != nil {
			if err := k.network(out, l, c); err != nil {
				return nil, of(k.kind, err)
			}
		}
	}
	switch {
	case c.HTTP != nil:
		m, err := manager(c)
		if err != nil {
			return nil, err
		}
		if err := out.add("envoy.filters.network.http_connection_manager", m); err != nil {
			return nil, err
		}
	case c.TCP != nil:
		if err := out.add("envoy.filters.network.tcp_proxy", tcpProxy(c)); err != nil {
			return nil, err
		}
	}
	return &out.FilterChain, nil // one without filters closes its connections
}

func tcpProxy(c *ir.Chain) *tcpv3.TcpProxy {
	t := &tcpv3.TcpProxy{
		StatPrefix:       statName(c.TCP.StatPrefix),
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: c.TCP.Cluster},
	}
	if len(c.TCP.Backends) > 0 {
		w := &tcpv3.TcpProxy_WeightedCluster{}
		for _, b := range c.TCP.Backends {
			w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{
				Name:   cmp.Or(b.Cluster, missingBackend),
				Weight: b.Weight,
			})
		}
		t.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	for i := range kinds {
		k := &kinds[i]
		if k.connections != nil {
			k.connections(t, c)
		}
	}
	return t
}

func manager(c *ir.Chain) (*hcmv3.HttpConnectionManager, error) {
	h := c.HTTP
	m := &managerMessage{}
	m.StatPrefix = statName(h.StatPrefix)
	m.CodecType = hcmv3.HttpConnectionManager_AUTO
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(h.Idle)}
	m.HttpFilters = make([]*hcmv3.HttpFilter, 0, 3)
	if h.StreamIdle > 0 {
		m.StreamIdleTimeout = durationpb.New(h.StreamIdle)
	}
	if h.Server {
		if c.TLS != "" {
			m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
			m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
				Uri: true}
		}
	} else {
		m.NormalizePath = wrapperspb.Bool(true)
	}
	if h.RDS != "" {
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource:    ads(),
			RouteConfigName: h.RDS,
		}}
	} else {
		rc, err := routeConfig(h.Routes)
		if err != nil {
			return nil, err
		}
		rc.ValidateClusters = wrapperspb.Bool(false)
		rc.RequestHeadersToRemove = []string{"x-kuma-tags"}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	}
	if h.GRPC {
		if err := m.add("envoy.filters.http.grpc_stats",
			&grpcstatsv3.FilterConfig{EmitFilterState: true}); err != nil {
			return nil, err
		}
	}
	for i := range kinds {
		k := &kinds[i]
		if k.requests != nil {
			if err := k.requests(m, c); err != nil {
				return nil, of(k.kind, err)
			}
		}
	}
	return &m.HttpConnectionManager, m.add("envoy.filters.http.router", &routerv3.Router{})
}
