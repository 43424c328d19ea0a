package translate

import (
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// For gRPC clients: what every gRPC library takes, in the form that the oldest of them read. What
// none takes is left out, where a call is still right without it: rewrites, header changes,
// mirrors, idle timeouts, outlier detection by consecutive errors. A route that only answers or
// redirects fails the calls that match it, with UNAVAILABLE. A condition that no gRPC call can meet
// (a query parameter, a method other than POST) takes its route away.

// Clusters without endpoints, of which a gRPC client's table has each: calls to them fail at once,
// and the client's error says the name.
const (
	// MissingBackend takes the share of a route that has no backend.
	MissingBackend = missingBackend
	// NoCertificates is where a client without a certificate finds the endpoints of a mesh that demands one.
	NoCertificates = "mesh_demands_mtls_and_client_has_no_dataplane.certificateProvider"
)

// CallListener is the listener that a gRPC client asks for by name; routes is its route configuration.
func CallListener(name, routes string) (*listenerv3.Listener, error) {
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	hcm, err := pack(&hcmv3.HttpConnectionManager{
		StatPrefix: statName(name), // Envoy's rules want one; gRPC ignores it
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource:    ads(),
			RouteConfigName: routes,
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}},
	})
	if err != nil {
		return nil, err
	}
	return &listenerv3.Listener{Name: name, ApiListener: &listenerv3.ApiListener{ApiListener: hcm}}, nil
}

// callRequests bounds the calls in flight to one destination.
const callRequests = 1024

// CallTLS is mesh mTLS of a gRPC client.
type CallTLS struct {
	ir.UpstreamTLS
	// Provider is the certificate provider instance of the client's bootstrap.
	Provider string
}

// CallCluster is a destination of a gRPC client. endpoints is the name of its load assignment; tls
// is nil for clear text.
func CallCluster(name, endpoints string, tls *CallTLS) (*clusterv3.Cluster, error) {
	out := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: endpoints},
		LbPolicy:             clusterv3.Cluster_ROUND_ROBIN,
		CircuitBreakers: &clusterv3.CircuitBreakers{
			Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxRequests: u32(callRequests)}},
		},
	}
	if tls == nil {
		return out, nil
	}
	validation := &tlsv3.CertificateValidationContext{
		CaCertificateProviderInstance: &tlsv3.CertificateProviderPluginInstance{InstanceName: tls.Provider}}
	match := func(m *matcherv3.StringMatcher) {
		//lint:ignore SA1019 gRPC reads this field; of its successor only some versions know
		validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, m)
	}
	for _, s := range tls.SANs {
		match(exact(s))
	}
	if len(tls.SANs) == 0 {
		match(prefix("spiffe://" + tls.Mesh + "/"))
	}
	a, err := pack(&tlsv3.UpstreamTlsContext{
		Sni: tls.SNI,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificateProviderInstance: &tlsv3.CertificateProviderPluginInstance{
				InstanceName: tls.Provider},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: validation},
		},
	})
	if err != nil {
		return nil, err
	}
	out.TransportSocket = &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a},
	}
	return out, nil
}

// CallEndpoints is the load assignment for gRPC clients, which take no locality without a weight,
// and refuse all endpoints if an address is there twice: as when an instance comes back under
// another name before the old one's lease is over.
func CallEndpoints(e ir.Endpoints) *endpointv3.ClusterLoadAssignment {
	out := Endpoints(distinct(e))
	for _, l := range out.GetEndpoints() {
		var sum uint32
		for _, ep := range l.GetLbEndpoints() {
			sum += max(1, ep.GetLoadBalancingWeight().GetValue())
		}
		l.LoadBalancingWeight = u32(sum)
	}
	return out
}

// distinct leaves one endpoint of each address: the first of those in the best health.
func distinct(e ir.Endpoints) ir.Endpoints {
	type address struct {
		host string
		port uint32
	}
	best := map[address]int{}
	for i, ep := range e.Endpoints {
		at := address{ep.Address, ep.Port}
		if j, twice := best[at]; !twice || ep.Health < e.Endpoints[j].Health {
			best[at] = i
		}
	}
	if len(best) == len(e.Endpoints) {
		return e
	}
	var list []ir.Endpoint
	for i, ep := range e.Endpoints {
		if best[address{ep.Address, ep.Port}] == i {
			list = append(list, ep)
		}
	}
	e.Endpoints = list
	return e
}

// CallRoutes is the route configuration of gRPC clients.
func CallRoutes(c ir.RouteConfig) *routev3.RouteConfiguration {
	vh := &routev3.VirtualHost{Name: c.Name, Domains: []string{"*"}}
	for i := range kinds {
		k := &kinds[i]
		if k.callHost != nil {
			k.callHost(vh, &c)
		}
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		m, ok := callMatch(r.Match)
		if !ok {
			continue
		}
		a := callAction(r)
		for n := range kinds {
			k := &kinds[n]
			if k.call != nil {
				k.call(a, r)
			}
		}
		vh.Routes = append(vh.Routes, &routev3.Route{
			Name:   r.Name,
			Match:  m,
			Action: &routev3.Route_Route{Route: a},
		})
	}
	return &routev3.RouteConfiguration{Name: c.Name, VirtualHosts: []*routev3.VirtualHost{vh}}
}

func callAction(r *ir.Route) *routev3.RouteAction {
	a := &routev3.RouteAction{}
	cluster := func(b ir.Backend) string {
		if b.Cluster == "" {
			return missingBackend
		}
		return b.Cluster
	}
	var sum uint64
	for _, b := range r.Backends {
		sum += uint64(b.Weight)
	}
	switch {
	case len(r.Backends) == 0 || sum == 0:
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: missingBackend}
		a.RetryPolicy = &routev3.RetryPolicy{NumRetries: u32(1)} // on nothing
	case len(r.Backends) == 1:
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster(r.Backends[0])}
	default:
		w := &routev3.WeightedCluster{}
		var total uint32
		for _, b := range r.Backends {
			weight := scaledWeight(b.Weight, sum)
			w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{
				Name:   cluster(b),
				Weight: u32(weight),
			})
			total += weight
		}
		//lint:ignore SA1019 older gRPC libraries take 100 for the sum unless it is given
		w.TotalWeight = u32(total)
		a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	}
	return a
}

// callMatch is false if no gRPC call can match.
func callMatch(m ir.Match) (*routev3.RouteMatch, bool) {
	if m.Method != "" && m.Method != "POST" || len(m.Query) > 0 || len(m.Callers) > 0 {
		return nil, false
	}
	out := routeMatch(ir.Match{PathType: m.PathType, Path: m.Path})
	for _, h := range m.Headers {
		hm := &routev3.HeaderMatcher{Name: strings.ToLower(h.Name)}
		switch h.Kind {
		case ir.ValuePresent, ir.ValueAbsent:
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
			hm.InvertMatch = h.Kind == ir.ValueAbsent
		case ir.ValueRegex:
			//lint:ignore SA1019 every gRPC library reads these fields, only some versions their successor
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_SafeRegexMatch{SafeRegexMatch: regex(h.Value)}
		case ir.ValuePrefix:
			//lint:ignore SA1019 as above
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_PrefixMatch{PrefixMatch: h.Value}
		default:
			//lint:ignore SA1019 as above
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_ExactMatch{ExactMatch: h.Value}
		}
		out.Headers = append(out.Headers, hm)
	}
	return out, true
}
