// Package bootstrap writes the document that Envoy starts with: who it is, where its control plane
// is, and nothing else. All the rest comes over ADS. [Build] is a pure function.
//
// The control plane is the cluster system_ads, spoken to with incremental ADS over TLS. The
// connection notices a dead peer by HTTP/2 pings and TCP keepalive, and comes back fast: retries
// start at 0.2 s and never wait longer than 1 s, so that a control plane that returns is used at
// once.
//
// The dataplane token is not in the document, in an argument or in a log. Envoy reads it from a
// file, as a static secret, and an upstream filter of system_ads adds it to each stream as the
// header authorization; Envoy's own config dump shows secrets as redacted. The file must hold the
// token and nothing else, not even a newline.
package bootstrap

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	upstreamcodecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	re2v3 "github.com/envoyproxy/go-control-plane/envoy/extensions/regex_engines/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names in the document.
const (
	// ClusterADS is the control plane.
	ClusterADS = "system_ads"
	// SecretCA validates the control plane; SecretToken is the dataplane token.
	SecretCA    = "cp_validation_ctx"
	SecretToken = "dataplane_token"
)

// Config of one proxy.
type Config struct {
	// NodeID is "<mesh>.<name>"; Cluster is the node's cluster, the service by convention; Zone its
	// locality, if known.
	NodeID, Cluster, Zone string
	// ProxyType is "dataplane", "ingress" or "egress".
	ProxyType string
	// Resource is the document that registers the proxy, JSON or YAML; empty if the zone has it already.
	Resource string
	// Inbounds are the sections of Resource's inbounds: their names, else their ports. They get the tag
	// "listener" on their statistics.
	Inbounds []string
	// Metadata are further string fields of the node's metadata, such as "version".
	Metadata map[string]string

	// Host and Port of the zone's xDS server; Host is a name or an address.
	Host string
	Port uint32
	// ServerName is the name to ask for and to find in the server's certificate; empty means Host.
	ServerName string
	// CA is PEM to trust. CAFile is read by Envoy instead, such as the system's bundle. With
	// neither, Insecure must be set.
	CA     []byte
	CAFile string
	// AnyName trusts any name in a certificate that CA signed: for a CA that a token's pin vouches for.
	AnyName bool
	// Insecure trusts any server. For trying out.
	Insecure bool
	// TokenFile is a file with the bare token; empty sends none.
	TokenFile string

	// AdminSocket is the path of Envoy's admin socket, in a private directory; else AdminPort is
	// bound on 127.0.0.1. With neither there is no admin interface.
	AdminSocket string
	AdminPort   uint32

	// MaxHeapBytes makes Envoy shed load near this size; 0 is no limit. MaxConnections from
	// clients; 0 means 50,000.
	MaxHeapBytes   uint64
	MaxConnections int64
}

func (c Config) validate() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(c.NodeID != "", "bootstrap: NodeID is empty, want <mesh>.<dataplane name>")
	need(slices.Contains([]string{"dataplane", "ingress", "egress"}, c.ProxyType),
		fmt.Sprintf("bootstrap: proxy type %q is unknown, use dataplane, ingress or egress", c.ProxyType))
	need(c.Host != "", "bootstrap: Host of the control plane is empty")
	need(c.Port > 0 && c.Port < 1<<16,
		fmt.Sprintf("bootstrap: port %d of the control plane is not between 1 and 65535", c.Port))
	need(len(c.CA) > 0 || c.CAFile != "" || c.Insecure,
		"bootstrap: no CA to trust the control plane by: give CA, CAFile or Insecure")
	return errors.Join(errs...)
}

// Build makes the document, or says what of c is wrong.
func Build(c Config) (*bootstrapv3.Bootstrap, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	p := &packer{}
	b := &bootstrapv3.Bootstrap{
		Node: c.node(),
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: adsSource(),
			CdsConfig: adsSource(),
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,

				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: ClusterADS,
					Authority:   c.serverName(),
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
						BaseInterval: durationpb.New(200 * time.Millisecond),
						MaxInterval:  durationpb.New(time.Second),
					}},
				}}}},
			},
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{c.cluster(p)},
			Secrets:  c.secrets(),
		},
		Admin: c.admin(),
		DefaultRegexEngine: &corev3.TypedExtensionConfig{
			Name:        "envoy.regex_engines.google_re2",
			TypedConfig: p.pack(&re2v3.GoogleRE2{}),
		},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "static",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{
				StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
					"re2.max_program_size.error_level": structpb.NewNumberValue(4294967295),
					"re2.max_program_size.warn_level":  structpb.NewNumberValue(1000),
				}}},
		}}},
		StatsConfig:     c.statsConfig(),
		OverloadManager: c.overload(p),
	}
	return b, p.err
}

// JSON is the document as Envoy reads it from a file whose name ends in .json.
func JSON(b *bootstrapv3.Bootstrap) ([]byte, error) {
	return protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(b)
}

// packer packs messages and keeps the first error.
type packer struct{ err error }

func (p *packer) pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("bootstrap: encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return a
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func (c Config) node() *corev3.Node {
	fields := map[string]*structpb.Value{"dataplane.proxyType": structpb.NewStringValue(c.ProxyType)}
	if c.Resource != "" {
		fields["dataplane.resource"] = structpb.NewStringValue(c.Resource)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Metadata)) {
		if k != "dataplane.token" { // it has no place here
			fields[k] = structpb.NewStringValue(c.Metadata[k])
		}
	}
	n := &corev3.Node{Id: c.NodeID, Cluster: c.Cluster, Metadata: &structpb.Struct{Fields: fields}}
	if c.Cluster == "" {
		n.Cluster = c.ProxyType
	}
	if c.Zone != "" {
		n.Locality = &corev3.Locality{Zone: c.Zone}
	}
	return n
}

func (c Config) serverName() string {
	if c.ServerName != "" {
		return c.ServerName
	}
	return c.Host
}

func (c Config) cluster(p *packer) *clusterv3.Cluster {
	address, err := netip.ParseAddr(c.Host)
	kind := clusterv3.Cluster_STRICT_DNS
	if err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	tls := &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			AlpnProtocols: []string{"h2"},
		},
	}
	if _, err := netip.ParseAddr(c.serverName()); err != nil {
		tls.Sni = c.serverName() // addresses are no server names
	}
	if !c.Insecure {
		tls.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: SecretCA}}
	}
	options := &upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval:       durationpb.New(10 * time.Second),
							Timeout:        durationpb.New(5 * time.Second),
							IntervalJitter: &typev3.Percent{Value: 15},
						},
					}}}},
	}
	if c.TokenFile != "" {
		options.HttpFilters = []*hcmv3.HttpFilter{
			{
				Name: "envoy.filters.http.credential_injector",
				ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.pack(&injectorv3.CredentialInjector{
					Overwrite: true,
					Credential: &corev3.TypedExtensionConfig{
						Name: "envoy.http.injected_credentials.generic",
						TypedConfig: p.pack(&genericv3.Generic{
							Credential: &tlsv3.SdsSecretConfig{Name: SecretToken}, Header: "authorization"}),
					},
				})},
			},
			{
				Name: "envoy.filters.http.upstream_codec",

				ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.pack(&upstreamcodecv3.UpstreamCodec{})},
			},
		}
	}
	host := c.Host
	if address.IsValid() {
		host = address.String()
	}
	return &clusterv3.Cluster{
		Name:                 ClusterADS,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:       durationpb.New(time.Second),
		DnsLookupFamily:      clusterv3.Cluster_ALL,
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes:   wrapperspb.UInt32(3),
			KeepaliveTime:     wrapperspb.UInt32(10),
			KeepaliveInterval: wrapperspb.UInt32(10),
		}},

		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": p.pack(options)},
		TransportSocket: &corev3.TransportSocket{Name: "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: p.pack(tls)}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: ClusterADS,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{
					{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
						Address: socketAddress(host, c.Port)}}}}}},
		},
	}
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func (c Config) secrets() []*tlsv3.Secret {
	var out []*tlsv3.Secret
	if !c.Insecure {
		v := &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: c.CAFile}}}
		if len(c.CA) > 0 {
			v.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: c.CA}}
		}
		if !c.AnyName {
			san := tlsv3.SubjectAltNameMatcher_DNS
			if _, err := netip.ParseAddr(c.serverName()); err == nil {
				san = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
			}
			v.MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{{
				SanType: san,

				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: c.serverName()}},
			}}
		}
		out = append(out, &tlsv3.Secret{
			Name: SecretCA,
			Type: &tlsv3.Secret_ValidationContext{ValidationContext: v},
		})
	}
	if c.TokenFile != "" {
		out = append(out, &tlsv3.Secret{
			Name: SecretToken,
			Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
				Secret: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: c.TokenFile}}}},
		})
	}
	return out
}

func (c Config) admin() *bootstrapv3.Admin {
	switch {
	case c.AdminSocket != "":
		return &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{
			Path: c.AdminSocket,
			Mode: 0o600,
		}}}}
	case c.AdminPort != 0:
		return &bootstrapv3.Admin{Address: socketAddress("127.0.0.1", c.AdminPort)}
	}
	return nil
}

// overload bounds connections, and memory if a limit is known.
func (c Config) overload(p *packer) *overloadv3.OverloadManager {
	connections := c.MaxConnections
	if connections == 0 {
		connections = 50_000
	}
	m := &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name: "envoy.resource_monitors.global_downstream_max_connections",

			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: p.pack(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: connections})},
		}},
	}
	if c.MaxHeapBytes == 0 {
		return m
	}
	const heap = "envoy.resource_monitors.fixed_heap"
	m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{
		Name: heap,

		ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: p.pack(&heapv3.FixedHeapConfig{MaxHeapSizeBytes: c.MaxHeapBytes})},
	})
	for _, a := range []struct {
		name string
		at   float64
	}{{"envoy.overload_actions.shrink_heap", 0.95},
		{"envoy.overload_actions.stop_accepting_requests", 0.98}} {
		m.Actions = append(m.Actions, &overloadv3.OverloadAction{
			Name: a.name,
			Triggers: []*overloadv3.Trigger{{
				Name: heap,

				TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: a.at}},
			}},
		})
	}
	return m
}
