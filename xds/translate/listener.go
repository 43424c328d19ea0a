package translate

import (
	"cmp"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	httplimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
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
	for _, c := range l.Chains {
		fc, err := chain(l, c)
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

func filter(name string, m proto.Message) (*listenerv3.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}, nil
}

func chain(l ir.Listener, c ir.Chain) (*listenerv3.FilterChain, error) {
	out := &listenerv3.FilterChain{Name: c.Name}
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
	add := func(name string, m proto.Message) error {
		f, err := filter(name, m)
		if err == nil {
			out.Filters = append(out.Filters, f)
		}
		return err
	}
	if c.Connections != nil {
		if err := add("envoy.filters.network.local_ratelimit",
			connectionLimit(l.Name, *c.Connections)); err != nil {
			return nil, err
		}
	}
	if c.HTTP != nil {
		if c.HTTP.Callers {
			if err := add("envoy.filters.network.set_filter_state", callerState()); err != nil {
				return nil, err
			}
		}
		m, err := manager(c)
		if err != nil {
			return nil, err
		}
		return out, add("envoy.filters.network.http_connection_manager", m)
	}
	if c.RBAC != nil {
		for _, f := range networkRBAC(l.Name, c.RBAC) {
			if err := add("envoy.filters.network.rbac", f); err != nil {
				return nil, err
			}
		}
	}
	if c.TCP == nil {
		return out, nil // a chain without filters closes its connections
	}
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
	if c.TCP.Idle > 0 {
		t.IdleTimeout = durationpb.New(c.TCP.Idle)
	}
	if c.TCP.ConnectAttempts > 0 {
		t.MaxConnectAttempts = u32(c.TCP.ConnectAttempts)
	}
	return out, add("envoy.filters.network.tcp_proxy", t)
}

func manager(c ir.Chain) (*hcmv3.HttpConnectionManager, error) {
	h := c.HTTP
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:                statName(h.StatPrefix),
		CodecType:                 hcmv3.HttpConnectionManager_AUTO,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(h.Idle)},
	}
	if h.RequestHeaders > 0 {
		m.RequestHeadersTimeout = durationpb.New(h.RequestHeaders)
	}
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
		rc, err := RouteConfig(*h.Routes)
		if err != nil {
			return nil, err
		}
		rc.ValidateClusters = wrapperspb.Bool(false)
		rc.RequestHeadersToRemove = []string{"x-kuma-tags"}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	}
	add := func(name string, cfg proto.Message) error {
		a, err := pack(cfg)
		if err != nil {
			return err
		}
		m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{
			Name:       name,
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a},
		})
		return nil
	}
	if c.RBAC != nil {
		for _, f := range httpRBAC(c.RBAC) {
			if err := add("envoy.filters.http.rbac", f); err != nil {
				return nil, err
			}
		}
	}
	if h.GRPC {
		if err := add("envoy.filters.http.grpc_stats",
			&grpcstatsv3.FilterConfig{EmitFilterState: true}); err != nil {
			return nil, err
		}
	}
	for _, f := range h.Faults {
		cfg, err := fault(f)
		if err != nil {
			return nil, err
		}
		if err := add(f.Name, cfg); err != nil {
			return nil, err
		}
	}
	if limits(h.Routes) {
		if err := add(limitFilter, &httplimitv3.LocalRateLimit{StatPrefix: "rate_limit"}); err != nil {
			return nil, err
		}
	}
	return m, add("envoy.filters.http.router", &routerv3.Router{})
}
