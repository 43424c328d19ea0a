package translate

import (
	"fmt"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

var deterministic = proto.MarshalOptions{Deterministic: true}

// Encode marshals a message so that equal messages are equal bytes. One that breaks the rules of Envoy's
// protos is an error: Envoy would reject it. Messages that it carries as Any were checked when they were
// made.
func Encode(m proto.Message) ([]byte, error) {
	if err := Check(m); err != nil {
		return nil, err
	}
	return deterministic.Marshal(m)
}

// Check applies the rules that Envoy's protos carry to a message of this package.
func Check(m proto.Message) error {
	if v, ok := m.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

func pack(m proto.Message) (*anypb.Any, error) {
	body, err := Encode(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	typeURL := "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
	return &anypb.Any{TypeUrl: typeURL, Value: body}, nil
}

// statName is a name as it may stand in a statistic.
func statName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '_'
	}, s)
}

func u32(v uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(v) }

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

// Cluster is the Envoy cluster.
func Cluster(c ir.Cluster) (*clusterv3.Cluster, error) {
	out := &clusterMessage{}
	out.Name = c.Name
	if s := statName(c.Name); s != c.Name {
		out.AltStatName = s
	}
	switch c.Type {
	case ir.ClusterEDS:
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		out.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}
		out.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
		out.IgnoreHealthOnHostRemoval = true
		out.CommonLbConfig.CloseConnectionsOnHostSetChange = c.Renew
	case ir.ClusterStatic:
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		out.LoadAssignment = &endpointv3.ClusterLoadAssignment{
			ClusterName: c.Name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{
					lbEndpoint(ir.Endpoint{Address: c.Local.Address, Port: c.Local.Port}),
				},
			}},
		}
	case ir.ClusterOriginal:
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		out.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	}
	if c.SourceAddress != "" {
		out.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: &corev3.SocketAddress{
			Address:       c.SourceAddress,
			PortSpecifier: &corev3.SocketAddress_PortValue{},
		}}
	}
	if c.Keepalive {
		// A peer that vanished without a word, as when its machine dies, is found within half a minute.
		out.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{
			TcpKeepalive: &corev3.TcpKeepalive{
				KeepaliveProbes:   u32(3),
				KeepaliveTime:     u32(15),
				KeepaliveInterval: u32(5),
			}}
	}
	if c.Upstream.IsHTTP() && c.Port.IsHTTP() {
		out.http = &corev3.HttpProtocolOptions{}
	}
	for i := range kinds {
		k := &kinds[i]
		if k.cluster != nil {
			if err := k.cluster(out, &c); err != nil {
				return nil, of(k.kind, err)
			}
		}
	}
	if err := addHTTP(out, &c); err != nil {
		return nil, err
	}
	if c.TLS != nil {
		ts, err := upstreamTLS(c.TLS)
		if err != nil {
			return nil, err
		}
		out.TransportSocket = ts
	}
	return &out.Cluster, nil
}

// pingInterval and pingTimeout find an instance whose machine or process stopped without a word, at the
// latest in their sum: the connection is closed then, and its requests are retried elsewhere. TCP alone does
// not tell a stopped process from a slow one. A round trip between distant zones takes up to 0.3 s.
const (
	pingInterval = 400 * time.Millisecond
	pingTimeout  = 400 * time.Millisecond
)

func addHTTP(out *clusterMessage, c *ir.Cluster) error {
	if !c.Upstream.IsHTTP() {
		return nil
	}
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if c.Upstream == ir.HTTP1 {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
	} else {
		http2 := &corev3.Http2ProtocolOptions{}
		if c.Keepalive {
			http2.ConnectionKeepalive = &corev3.KeepaliveSettings{
				Interval: durationpb.New(pingInterval),
				Timeout:  durationpb.New(pingTimeout),
			}
		}
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: http2}
	}
	a, err := pack(&httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: out.http,
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: explicit},
	})
	if err != nil {
		return err
	}
	out.TypedExtensionProtocolOptions = map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": a}
	return nil
}

func lbEndpoint(e ir.Endpoint) *endpointv3.LbEndpoint {
	out := &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address(e.Address, e.Port)}}}
	switch e.Health {
	case ir.Unhealthy:
		out.HealthStatus = corev3.HealthStatus_UNHEALTHY
	case ir.Draining:
		out.HealthStatus = corev3.HealthStatus_DRAINING
	}
	if e.Weight > 0 {
		out.LoadBalancingWeight = u32(e.Weight)
	}
	if e.Behind > 0 {
		// Envoy takes a change of weight alone for no change of its hosts; one of metadata makes it
		// renew connections.
		out.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"io.meridian.zone": {
			Fields: map[string]*structpb.Value{"healthy": structpb.NewNumberValue(float64(e.Behind))}}}}
	}
	if tags, ok := e.Tags.Get(); ok {
		out.Metadata = tagMetadata(tags)
	}
	return out
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

// Endpoints is the load assignment of a cluster; e.Endpoints are sorted by priority, zone and sub-zone.
func Endpoints(e ir.Endpoints) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: e.Cluster}
	for i := range kinds {
		k := &kinds[i]
		if k.endpoints != nil {
			k.endpoints(out, &e)
		}
	}
	// Priorities must have no gap: without endpoints of this zone the others are first.
	next := map[uint32]uint32{}
	var group *endpointv3.LocalityLbEndpoints
	var last ir.Endpoint
	for i, ep := range e.Endpoints {
		p, ok := next[ep.Priority]
		if !ok {
			p = uint32(len(next))
			next[ep.Priority] = p
		}
		if i == 0 || ep.Zone != last.Zone || ep.SubZone != last.SubZone || ep.Priority != last.Priority {
			group = &endpointv3.LocalityLbEndpoints{
				Locality: &corev3.Locality{Zone: ep.Zone, SubZone: ep.SubZone},
				Priority: p,
			}
			if ep.LocalityWeight > 0 {
				group.LoadBalancingWeight = u32(ep.LocalityWeight)
			}
			out.Endpoints = append(out.Endpoints, group)
		}
		last = ep
		group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(ep))
	}
	return out
}

// tagMetadata is where load balancing looks for the tags of an endpoint.
func tagMetadata(tags map[string]string) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	for k, v := range tags {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb": {Fields: fields}}}
}
