// Package bootstrap writes the document that Envoy starts with: who it is, where its control plane
// is, and nothing else. The rest comes over ADS. [Build] is a pure function.
//
// The control plane is the cluster system_ads, spoken to with incremental ADS. A launcher gives a UNIX
// socket for it, behind which its relay is, and nothing of the zone is in the document. Without one Envoy
// speaks TLS to the zone itself. That connection notices a dead control plane by HTTP/2 pings and TCP
// keepalive. Either way it comes back fast: retries start at 0.2 s and never wait longer than 1 s, so that
// a control plane that returns is used at once.
//
// Without a socket Envoy reads the dataplane token, which is not in the document, in an argument or in a
// log, from a file, as a static secret, and an upstream filter of system_ads adds it to each stream as the
// header authorization; Envoy's own config dump shows secrets as redacted. The file must hold the
// token and nothing else, not even a newline.
//
// The document is made as JSON, without Envoy's generated types: they cost the launcher, which runs
// beside every workload, more memory than the rest of it. Tests start a real Envoy with it.
package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

	// Socket is the path of a UNIX socket whose owner speaks to the zone for Envoy. With it, the fields
	// from Host to TokenFile are not used.
	Socket string
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

	// MaxHeapBytes makes Envoy shed load near this size; 0 sets none. MaxConnections from
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
	need(c.NodeID != "", "bootstrap: NodeID is empty, must be <mesh>.<dataplane name>")
	need(slices.Contains([]string{"dataplane", "ingress", "egress"}, c.ProxyType),
		fmt.Sprintf("bootstrap: proxy type %q is unknown, use dataplane, ingress or egress", c.ProxyType))
	if c.Socket != "" {
		return errors.Join(errs...)
	}
	need(c.Host != "", "bootstrap: Host of the control plane is empty")
	need(c.Port > 0 && c.Port < 1<<16,
		fmt.Sprintf("bootstrap: port %d of the control plane is not between 1 and 65535", c.Port))
	need(len(c.CA) > 0 || c.CAFile != "" || c.Insecure,
		"bootstrap: no CA to trust the control plane by: give CA, CAFile or Insecure")
	return errors.Join(errs...)
}

// object is a message of Envoy's API in JSON, with the field names of its protos.
type object = map[string]any

// typed is an object with the name of its type, for fields that take any type.
func typed(name string, o object) object {
	o["@type"] = "type.googleapis.com/" + name
	return o
}

// Build gives the document as Envoy reads it from a file whose name ends in .json, or an error that names
// every field of c that is wrong.
func Build(c Config) ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}

	doc := object{
		"node": c.node(),
		"dynamic_resources": object{
			"lds_config": adsSource(),
			"cds_config": adsSource(),
			"ads_config": object{
				"api_type":                       "DELTA_GRPC",
				"transport_api_version":          "V3",
				"set_node_on_first_message_only": true,
				"grpc_services":                  []object{c.grpcService()},
			},
		},
		"static_resources": object{
			"clusters": []object{c.cluster()},
			"secrets":  c.secrets(),
		},
		"default_regex_engine": object{
			"name":         "envoy.regex_engines.google_re2",
			"typed_config": typed("envoy.extensions.regex_engines.v3.GoogleRE2", object{}),
		},
		"layered_runtime": object{
			"layers": []object{{
				"name": "static",
				"static_layer": object{
					// A call whose time is up is not one that the client may repeat at will, which
					// UNAVAILABLE would say.
					"envoy.reloadable_features.grpc_timeout_returns_deadline_exceeded": true,
					"re2.max_program_size.error_level":                                 4294967295,
					"re2.max_program_size.warn_level":                                  1000,
				},
			}},
		},
		"stats_config":     object{"stats_tags": c.statsTags()},
		"overload_manager": c.overload(),
	}
	if a := c.admin(); a != nil {
		doc["admin"] = object{"address": a}
	}
	return json.MarshalIndent(doc, "", "  ")
}

// grpcService is the connection to the control plane: after a failure Envoy tries again in 0.2 to 1 s.
func (c Config) grpcService() object {
	return object{
		"envoy_grpc": object{
			"cluster_name": ClusterADS,
			"authority":    c.serverName(),
			"retry_policy": object{
				"retry_back_off": object{"base_interval": "0.2s", "max_interval": "1s"},
			},
		},
	}
}

func adsSource() object {
	return object{
		"resource_api_version":  "V3",
		"initial_fetch_timeout": "0s",
		"ads":                   object{},
	}
}

func (c Config) node() object {
	fields := object{"dataplane.proxyType": c.ProxyType}
	if c.Resource != "" {
		fields["dataplane.resource"] = c.Resource
	}
	for _, k := range slices.Sorted(maps.Keys(c.Metadata)) {
		if k != "dataplane.token" { // the document never carries it
			fields[k] = c.Metadata[k]
		}
	}

	n := object{"id": c.NodeID, "cluster": c.Cluster, "metadata": fields}
	if c.Cluster == "" {
		n["cluster"] = c.ProxyType
	}
	if c.Zone != "" {
		n["locality"] = object{"zone": c.Zone}
	}
	return n
}

// serverName is the authority of ADS, too.
func (c Config) serverName() string {
	if c.Socket != "" {
		return "zone"
	}
	if c.ServerName != "" {
		return c.ServerName
	}
	return c.Host
}

// cluster is the control plane.
func (c Config) cluster() object {
	if c.Socket != "" {
		return c.relay()
	}
	host := c.Host
	kind := "STRICT_DNS"
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.String()
		kind = "STATIC"
	}

	return object{
		"name":              ClusterADS,
		"type":              kind,
		"connect_timeout":   "1s",
		"dns_lookup_family": "ALL",
		"upstream_connection_options": object{
			"tcp_keepalive": object{
				"keepalive_probes":   3,
				"keepalive_time":     10,
				"keepalive_interval": 10,
			},
		},
		"typed_extension_protocol_options": object{
			protocolOptions: c.protocol(),
		},
		"transport_socket": object{
			"name":         "envoy.transport_sockets.tls",
			"typed_config": c.tls(),
		},
		"load_assignment": object{
			"cluster_name": ClusterADS,
			"endpoints": []object{{
				"lb_endpoints": []object{{
					"endpoint": object{"address": socketAddress(host, c.Port)},
				}},
			}},
		},
	}
}

// relay is the control plane behind a socket. Its end is noticed at once, without pings.
func (c Config) relay() object {
	http2 := object{"explicit_http_config": object{"http2_protocol_options": object{}}}
	return object{
		"name":            ClusterADS,
		"type":            "STATIC",
		"connect_timeout": "1s",
		"typed_extension_protocol_options": object{
			protocolOptions: typed(protocolOptions, http2),
		},
		"load_assignment": object{
			"cluster_name": ClusterADS,
			"endpoints": []object{{
				"lb_endpoints": []object{{
					"endpoint": object{"address": object{"pipe": object{"path": c.Socket}}},
				}},
			}},
		},
	}
}

// protocolOptions is the name and the type of a cluster's options of HTTP.
const protocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func (c Config) tls() object {
	common := object{
		"tls_params":     object{"tls_minimum_protocol_version": "TLSv1_2"},
		"alpn_protocols": []string{"h2"},
	}
	if !c.Insecure {
		common["validation_context_sds_secret_config"] = object{"name": SecretCA}
	}

	out := typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		object{"common_tls_context": common})
	if _, err := netip.ParseAddr(c.serverName()); err != nil {
		out["sni"] = c.serverName() // SNI is for names alone
	}
	return out
}

// protocol is HTTP/2 with pings, and the filter that adds the token.
func (c Config) protocol() object {
	out := typed(protocolOptions, object{
		"explicit_http_config": object{
			"http2_protocol_options": object{
				"connection_keepalive": object{
					"interval":        "10s",
					"timeout":         "5s",
					"interval_jitter": object{"value": 15},
				},
			},
		},
	})
	if c.TokenFile == "" {
		return out
	}

	credential := typed("envoy.extensions.http.injected_credentials.generic.v3.Generic", object{
		"credential": object{"name": SecretToken},
		"header":     "authorization",
	})
	injector := typed("envoy.extensions.filters.http.credential_injector.v3.CredentialInjector", object{
		"overwrite": true,
		"credential": object{
			"name":         "envoy.http.injected_credentials.generic",
			"typed_config": credential,
		},
	})
	out["http_filters"] = []object{
		{
			"name":         "envoy.filters.http.credential_injector",
			"typed_config": injector,
		},
		{
			"name":         "envoy.filters.http.upstream_codec",
			"typed_config": typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec", object{}),
		},
	}
	return out
}

func socketAddress(host string, port uint32) object {
	return object{"socket_address": object{"address": host, "port_value": port}}
}

func (c Config) secrets() []object {
	if c.Socket != "" {
		return nil
	}
	var out []object
	if !c.Insecure {
		validation := object{"trusted_ca": object{"filename": c.CAFile}}
		if len(c.CA) > 0 {
			validation["trusted_ca"] = object{"inline_bytes": c.CA}
		}
		if !c.AnyName {
			san := "DNS"
			if _, err := netip.ParseAddr(c.serverName()); err == nil {
				san = "IP_ADDRESS"
			}
			validation["match_typed_subject_alt_names"] = []object{{
				"san_type": san,
				"matcher":  object{"exact": c.serverName()},
			}}
		}
		out = append(out, object{"name": SecretCA, "validation_context": validation})
	}

	if c.TokenFile != "" {
		out = append(out, object{
			"name":           SecretToken,
			"generic_secret": object{"secret": object{"filename": c.TokenFile}},
		})
	}
	return out
}

func (c Config) admin() object {
	switch {
	case c.AdminSocket != "":
		return object{"pipe": object{"path": c.AdminSocket, "mode": 0o600}}
	case c.AdminPort != 0:
		return socketAddress("127.0.0.1", c.AdminPort)
	}
	return nil
}

// overload bounds connections, and memory if a limit is known.
func (c Config) overload() object {
	connections := c.MaxConnections
	if connections == 0 {
		connections = 50_000
	}
	monitors := []object{{
		"name": "envoy.resource_monitors.global_downstream_max_connections",
		"typed_config": typed(
			"envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
			object{"max_active_downstream_connections": connections}),
	}}
	out := object{"refresh_interval": "0.25s"}

	if c.MaxHeapBytes > 0 {
		const heap = "envoy.resource_monitors.fixed_heap"
		monitors = append(monitors, object{
			"name": heap,
			"typed_config": typed("envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
				object{"max_heap_size_bytes": c.MaxHeapBytes}),
		})
		action := func(name string, at float64) object {
			return object{
				"name":     name,
				"triggers": []object{{"name": heap, "threshold": object{"value": at}}},
			}
		}
		out["actions"] = []object{
			action("envoy.overload_actions.shrink_heap", 0.95),
			action("envoy.overload_actions.stop_accepting_requests", 0.98),
		}
	}
	out["resource_monitors"] = monitors
	return out
}
