// Package ir is what xds/compile says a proxy should have, in words of the mesh and not of Envoy:
// destinations, timeouts, permissions, routes. It is data alone. xds/translate turns it into
// Envoy's messages and is the only place that knows their shape, so that a policy is written once
// and what Envoy calls a thing can change without it.
//
// Values are immutable once made. Durations of zero mean "no limit" wherever Envoy has that meaning.
package ir

import (
	"time"
)

// Identity is a workload certificate and its key, as a proxy gets them.
type Identity struct {
	// Chain is PEM: the leaf, then the intermediate.
	Chain []byte
	// Key is the private key, PEM.
	Key []byte
	// URIs of the leaf.
	URIs []string
	// Expires is the leaf's end of life.
	Expires time.Time
}

// Protocol of a port.
type Protocol string

// Protocols.
const (
	TCP   Protocol = "tcp"
	HTTP1 Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
	Kafka Protocol = "kafka"
)

// IsHTTP says that requests of the protocol can be routed one by one.
func (p Protocol) IsHTTP() bool { return p == HTTP1 || p == HTTP2 || p == GRPC }

// Health of an endpoint, as the control plane knows it.
type Health uint8

// Healths.
const (
	Healthy Health = iota
	Unhealthy
	Draining
)

// Endpoint is one address that serves a destination. It is comparable.
type Endpoint struct {
	Address string
	Port    uint32
	Health  Health
	// Weight relative to the others of the same priority; at least 1.
	Weight uint32
	Zone   string
	// SubZone parts a zone by what an endpoint shares with its callers.
	SubZone string
	// Priority 0 is tried first.
	Priority uint32
	// Tags are those by which a policy tells endpoints apart, if one does.
	Tags Shared[map[string]string]
	// LocalityWeight is that of all endpoints of the same zone and sub-zone together; 0 if
	// localities have no weights.
	LocalityWeight uint32
	// Behind is the number of healthy instances that a zone ingress stands for; 0 for an instance.
	Behind uint32
}

// Endpoints of one cluster, sorted by priority, zone, sub-zone, address, port.
type Endpoints struct {
	Cluster   string
	Endpoints []Endpoint
	// Overprovisioning is 100 times the factor by which the healthy share of a priority counts
	// before traffic spills over to the next; 0 leaves Envoy's 140.
	Overprovisioning uint32
}

// ClusterType says where a cluster's endpoints come from.
type ClusterType uint8

// Cluster types.
const (
	// ClusterEDS gets them from the control plane.
	ClusterEDS ClusterType = iota
	// ClusterStatic has the one in Cluster.Local, the workload itself.
	ClusterStatic
	// ClusterOriginal dials where the caller was going.
	ClusterOriginal
)

// Cluster is a destination as a proxy dials it.
type Cluster struct {
	Name string
	Type ClusterType
	// Upstream is the protocol spoken to the endpoints; TCP adds no HTTP options.
	Upstream Protocol
	// Port is the protocol of the port itself: it decides where idle timeouts are written.
	Port Protocol
	ClusterPolicy
	TLS *UpstreamTLS
	// Keepalive finds endpoints that vanished without a word.
	Keepalive bool
	// Renew drains connections when the endpoints change, so that the next requests are spread again.
	Renew bool
	// Local is the workload's address of a static cluster.
	Local Endpoint
	// SourceAddress to dial from; empty leaves it to the system.
	SourceAddress string
}

// UpstreamTLS is mesh mTLS towards a destination.
type UpstreamTLS struct {
	Mesh string
	SNI  string
	// SANs are the URIs of which the server must present one; empty accepts every identity of the mesh.
	SANs []string
}

// Listener is a port of the proxy.
type Listener struct {
	Name    string
	Address string
	Port    uint32
	// Unbound listeners are reached through a redirect only.
	Unbound bool
	Inbound bool
	// OriginalDst hands a connection to the listener of its original destination.
	OriginalDst bool
	// TLSInspector reads the server name and ALPN before a chain is chosen.
	TLSInspector bool
	ReusePort    bool
	Chains       []Chain
}

// Chain is a filter chain: which connections it takes, and what happens to them.
type Chain struct {
	Name string
	// Transport "tls" or "raw_buffer" restricts the chain; empty takes all.
	Transport   string
	ALPN        []string
	ServerNames []string
	// TLS terminates mesh mTLS of the mesh named; empty does not.
	TLS string
	ListenerPolicy
	InboundPolicy
	// At most one of HTTP and TCP; with neither, connections are closed.
	HTTP *HTTP
	TCP  *TCPProxy
}

// HTTP is an HTTP connection manager.
type HTTP struct {
	StatPrefix string
	// RDS names the route configuration to ask for; empty uses Routes.
	RDS    string
	Routes *RouteConfig
	// Server side: forwards the caller's identity and keeps the path as it is.
	Server bool
	GRPC   bool
	// StreamIdle of the connection manager; zero leaves the default.
	StreamIdle time.Duration
	// Idle of downstream connections.
	Idle time.Duration
	// Callers puts the caller's URI SAN where routes with Match.Callers find it.
	Callers bool
}

// TCPProxy passes bytes on.
type TCPProxy struct {
	StatPrefix string
	Cluster    string
	// Backends share the connections if there is more than one; Cluster is empty then. A share
	// whose cluster is empty is closed.
	Backends []Backend
}

// RouteConfig is the routes of one destination, in order.
type RouteConfig struct {
	Name string
	// Common is what policies say about the requests of all routes together. A route with another
	// Retry carries its own; the Limit is one of all routes that have none.
	Common RoutePolicy
	Routes []Route
}

// Route is one match and what happens to requests that match it.
type Route struct {
	Name  string
	Match Match
	// Exactly one of the three: Backends, Redirect, Status.
	Backends []Backend
	Redirect *Redirect
	Status   uint32

	RoutePolicy
	RequestHeaders  HeaderEdit
	ResponseHeaders HeaderEdit
	HostRewrite     string
	// ReplacePath replaces the whole path; ReplacePrefix the matched prefix.
	ReplacePath, ReplacePrefix *string
	Mirrors                    []Mirror
}

// Backend is a cluster and its share. An empty Cluster is a share without a backend: requests of it
// are answered 500, and connections of it closed.
type Backend struct {
	Cluster string
	Weight  uint32
}

// Redirect answers with a redirect.
type Redirect struct {
	Scheme, Host string
	Port         uint32
	Status       uint32
}

// Mirror copies a share of the requests.
type Mirror struct {
	Cluster string
	// Millionths of the requests.
	Millionths uint32
}

// HeaderEdit changes headers.
type HeaderEdit struct {
	Set, Add []Header
	Remove   []string
}

// Header is a name and a value.
type Header struct{ Name, Value string }

// PathType says how a path is compared.
type PathType uint8

// Path types.
const (
	// PathPrefix compares the beginning, byte by byte; "/" takes all.
	PathPrefix PathType = iota
	PathExact
	PathRegex
)

// Match is a condition on requests; the fields given all hold.
type Match struct {
	PathType PathType
	Path     string
	Method   string
	Headers  []ValueMatch
	Query    []ValueMatch
	// Callers restrict by the caller's identity; all of them must fit.
	Callers []IdentityMatch
}

// ValueKind says how a header or a query parameter is compared.
type ValueKind uint8

// Value kinds.
const (
	ValueExact ValueKind = iota
	ValuePresent
	ValueAbsent
	ValueRegex
	ValuePrefix
)

// ValueMatch compares one header or query parameter.
type ValueMatch struct {
	Name  string
	Kind  ValueKind
	Value string
}

// IdentityMatch compares the caller's URI SAN and the server name of the connection; what is given must hold.
type IdentityMatch struct {
	// SpiffeID with Prefix takes the identity itself and everything below it, segment by segment.
	SpiffeID string
	Prefix   bool
	SNI      string
}

// Secret is a certificate and key (identity) or a bundle to trust.
type Secret struct {
	Name       string
	Chain, Key []byte
	Trust      []byte
}

// IdentitySecret is the name under which a proxy finds its certificate of a mesh.
func IdentitySecret(meshName string) string { return "system_mtls_identity_" + meshName }

// CASecret is the name of the bundle that a mesh's proxies trust.
func CASecret(meshName string) string { return "system_mtls_ca_" + meshName }
