// Package ir is what xds/compile says a proxy should have, in words of the mesh and not of Envoy: destinations,
// timeouts, permissions, routes. It is data alone. xds/translate turns it into Envoy's messages and is the only place
// that knows their shape, so that a policy is written once and what Envoy calls a thing can change without it.
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
	// Priority 0 is tried first.
	Priority uint32
	// Behind is the number of healthy instances that a zone ingress stands for; 0 for an instance.
	Behind uint32
}

// Endpoints of one cluster, sorted by priority, zone, address, port.
type Endpoints struct {
	Cluster   string
	Endpoints []Endpoint
}

// ClusterTimeouts are the timeouts that belong to the connection pool of a destination. Comparable.
type ClusterTimeouts struct {
	Connect, Idle, MaxStream, MaxConnection time.Duration
}

// RouteTimeouts belong to a route. Comparable.
type RouteTimeouts struct {
	Request, StreamIdle time.Duration
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
	Port     Protocol
	Timeouts ClusterTimeouts
	TLS      *UpstreamTLS
	// Resilient clusters eject failing endpoints and bound what is in flight.
	Resilient bool
	// Renew drains connections when the endpoints change, so that the next requests are spread anew.
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
	TLS  string
	RBAC *RBAC
	// Exactly one of HTTP and TCP.
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
	Server         bool
	GRPC           bool
	RequestHeaders time.Duration
	// StreamIdle of the connection manager; zero leaves the default.
	StreamIdle time.Duration
	// Idle of downstream connections.
	Idle time.Duration
	// Callers puts the caller's URI SAN where routes with Match.Caller find it.
	Callers bool
}

// TCPProxy passes bytes on.
type TCPProxy struct {
	StatPrefix string
	Cluster    string
	Idle       time.Duration
	// ConnectAttempts is how many endpoints are tried before the connection fails; 0 is one.
	ConnectAttempts uint32
}

// RouteConfig is the routes of one destination, in order.
type RouteConfig struct {
	Name string
	// Retry requests by the default policy.
	Retry  bool
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

	Timeouts        RouteTimeouts
	RequestHeaders  HeaderEdit
	ResponseHeaders HeaderEdit
	HostRewrite     string
	// ReplacePath replaces the whole path; ReplacePrefix the matched prefix.
	ReplacePath, ReplacePrefix *string
	Mirrors                    []Mirror
}

// Backend is a cluster and its share. An empty Cluster is a share without a backend: it answers 500.
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
	// Caller restricts by the caller's identity.
	Caller *IdentityMatch
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

// Rule is one row of a permission table.
type Rule struct {
	Match IdentityMatch
	// Name of the policy that says so.
	Name string
	// Deny, else allow.
	Deny bool
}

// URIMatch compares a URI SAN of the caller.
type URIMatch struct {
	URI    string
	Prefix bool
}

// Principal is a set of callers: those that have all URIs of All and, of each element of Not, lack at least one.
type Principal struct {
	All []URIMatch
	Not [][]URIMatch
}

// RBAC decides who may connect. Rules are read in order and the first match decides; no match denies. With Principals
// instead (the older form), a caller that is one of them is allowed.
type RBAC struct {
	ByRules bool
	Rules   []Rule
	// Shadow rules are only counted.
	Shadow []Rule

	Principals       []Principal
	ShadowPrincipals []Principal
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
