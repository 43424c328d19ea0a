package compile

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// serviceless is the port of a Dataplane that serves nothing; it has no listener.
const serviceless = 49151

// InboundStreamIdle is the connection manager's own limit; routes have their own.
const InboundStreamIdle = time.Hour

// InboundProtocol is what an inbound speaks: what it says, else its tag, else TCP.
func InboundProtocol(in *meshv1.Dataplane_Inbound) ir.Protocol {
	return ir.Protocol(cmp.Or(in.GetProtocol(), in.GetTags()[mesh.TagProtocol], string(ir.TCP)))
}

// Inbounds are the listeners and local clusters of a proxy's own workload. policies gives those of
// a section name.
func Inbounds(dp *mesh.Resource, m MeshInfo,
	policies func(section string) *InboundConfig) ([]ir.Listener, []ir.Cluster) {
	n := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking()
	redirected := n.GetTransparentProxying().GetRedirectPortInbound() != 0
	var listeners []ir.Listener
	var clusters []ir.Cluster
	for _, in := range n.GetInbound() {
		if in.GetPort() == serviceless {
			continue
		}
		section := selector.Section(in)
		name := "self_inbound_dp_" + section
		// A name that is left here is refused by the proxy, which then says so for this listener alone.
		address, _ := numeric(cmp.Or(in.GetAddress(), n.GetAddress()))
		service, _ := numeric(cmp.Or(in.GetServiceAddress(), address))
		protocol := InboundProtocol(in)
		p := policies(section)

		local := ir.Endpoint{Address: service, Port: cmp.Or(in.GetServicePort(), in.GetPort()), Weight: 1}
		c := ir.Cluster{
			Name:          name,
			Type:          ir.ClusterStatic,
			Upstream:      protocol,
			Port:          protocol,
			ClusterPolicy: p.Cluster,
			Local:         local,
		}
		if !protocol.IsHTTP() {
			c.Upstream = ir.TCP
		}
		if a, err := netip.ParseAddr(local.Address); redirected && err == nil && !a.IsLoopback() {
			c.SourceAddress = "127.0.0.6"
			if a.Is6() {
				c.SourceAddress = "::6"
			}
		}
		clusters = append(clusters, c)

		chain := ir.Chain{ListenerPolicy: p.Listener, InboundPolicy: p.Inbound}
		if protocol.IsHTTP() {
			base := ir.Route{
				Match:       ir.Match{Path: "/"},
				Backends:    []ir.Backend{{Cluster: name, Weight: 1}},
				RoutePolicy: p.Route,
			}
			routes := []ir.Route{base}
			if m.MTLS != "" {
				routes = callerRoutes(base, p.Callers)
			}
			chain.HTTP = &ir.HTTP{
				StatPrefix: name,
				Server:     true,
				GRPC:       protocol == ir.GRPC,
				StreamIdle: InboundStreamIdle,
				Callers:    len(routes) > 1,
				Routes:     &ir.RouteConfig{Name: name, Common: p.Common, Routes: routes},
			}
		} else {
			chain.TCP = &ir.TCPProxy{StatPrefix: name, Cluster: name}
		}
		l := ir.Listener{
			Name:      name,
			Address:   address,
			Port:      in.GetPort(),
			Unbound:   redirected,
			Inbound:   true,
			ReusePort: true,
		}
		secure(&l, chain, dp.Key.Mesh, m)
		listeners = append(listeners, l)
	}
	return listeners, clusters
}

// secure gives a listener its chains: who may connect, and whether in clear.
func secure(l *ir.Listener, tls ir.Chain, meshName string, m MeshInfo) {
	plain := tls
	for i := range kinds {
		if inClear := kinds[i].inClear; inClear != nil {
			inClear(&plain.InboundPolicy)
		}
	}
	if m.MTLS == "" {
		l.Chains = []ir.Chain{plain}
		return
	}
	tls.TLS = meshName
	l.TLSInspector = needsSNI(tls)
	if m.MTLS != "PERMISSIVE" {
		l.Chains = []ir.Chain{tls}
		return
	}
	// In clear; the application's own TLS, untouched; and the mesh's, told apart by what a mesh
	// client offers.
	l.TLSInspector = true
	clear := plain
	clear.Transport = "raw_buffer"
	if clear.HTTP != nil {
		h := *clear.HTTP
		h.Callers = false
		if n := len(h.Routes.Routes); n > 1 {
			rc := *h.Routes
			rc.Routes = rc.Routes[n-1:]
			h.Routes = &rc
		}
		clear.HTTP = &h
	}
	own := plain
	own.Transport = "tls"
	if own.TCP == nil {
		own.HTTP, own.TCP = nil, &ir.TCPProxy{StatPrefix: l.Name, Cluster: l.Name}
		own.ListenerPolicy = ir.ListenerPolicy{} // which is about HTTP
	}
	tls.Transport, tls.ALPN = "tls", []string{"kuma"}
	l.Chains = []ir.Chain{clear, own, tls}
}

// Transparent are the listeners and clusters that catch redirected traffic; none if the Dataplane
// redirects nothing.
func Transparent(dp *mesh.Resource, m MeshInfo) (listeners []ir.Listener, clusters []ir.Cluster) {
	tp := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetTransparentProxying()
	add := func(name, address, source string, port uint32, inbound, open bool) {
		l := ir.Listener{
			Name:        name,
			Address:     address,
			Port:        port,
			Inbound:     inbound,
			OriginalDst: true,
			Chains:      []ir.Chain{{TCP: &ir.TCPProxy{StatPrefix: name, Cluster: name}}},
		}
		listeners = append(listeners, l)
		if open {
			clusters = append(clusters, ir.Cluster{
				Name:          name,
				Type:          ir.ClusterOriginal,
				Upstream:      ir.TCP,
				Port:          ir.TCP,
				SourceAddress: source,
				ClusterPolicy: ir.ClusterPolicy{Timeouts: ir.ClusterTimeouts{Connect: DefaultConnect}},
			})
		}
	}
	v6 := tp.GetIpFamilyMode() != "IPv4"
	if port := tp.GetRedirectPortOutbound(); port != 0 {
		add("self_transparentproxy_passthrough_outbound_ipv4", "0.0.0.0", "", port, false, m.Passthrough)
		if v6 {
			add("self_transparentproxy_passthrough_outbound_ipv6", "::", "", port, false, m.Passthrough)
		}
	}
	if port := tp.GetRedirectPortInbound(); port != 0 {
		// Undeclared ports are not reachable in clear where the mesh demands mTLS.
		open := m.MTLS != "STRICT"
		add("self_transparentproxy_passthrough_inbound_ipv4", "0.0.0.0", "127.0.0.6", port, true, open)
		if v6 {
			add("self_transparentproxy_passthrough_inbound_ipv6", "::", "::6", port, true, open)
		}
	}
	return listeners, clusters
}
