package ir

import "time"

// What policies say is grouped by the part of the output that it changes, so that a policy
// recomputes only what it is about. All four groups are comparable: equal ones share one cluster, one
// listener or one set of routes. A kind of policy that says more than scalars puts it in a
// [Shared].
//
// The parts and what kinds say in them stand in one file: a kind of policy adds its fields and their
// types here, and touches no other file of this package.

// ClusterPolicy is what policies say about a cluster. Comparable.
type ClusterPolicy struct {
	Timeouts ClusterTimeouts
	Limits   Limits
	Outlier  Outlier
	Panic    Panic
	// FailOnPanic answers 503 instead of using unhealthy endpoints.
	FailOnPanic bool
	HealthCheck Shared[HealthCheck]
	Balancer    LoadBalancer
	// LocalityWeighted clusters share traffic between localities by the weights that the endpoints bring.
	LocalityWeighted bool
}

// EndpointPolicy is what policies say about the endpoints of a cluster. Comparable.
type EndpointPolicy struct {
	Awareness Shared[Awareness]
}

// RoutePolicy is what policies say about requests. Comparable.
type RoutePolicy struct {
	Timeouts RouteTimeouts
	// Limit is a route's own, on the side of the server; none is that of the RouteConfig, and one
	// of rate 0 lifts it.
	Limit Shared[RequestLimit]
	// Retry of failed requests; none if there is no value.
	Retry Shared[Retry]
	// Hash is what is hashed to choose an endpoint, in order.
	Hash Shared[[]HashPolicy]
}

// ListenerPolicy is what policies say about connections of callers. Comparable.
type ListenerPolicy struct {
	// RequestHeaders is how long a caller may take for the headers of a request.
	RequestHeaders time.Duration
	// Idle of TCP connections.
	Idle time.Duration
	// ConnectAttempts is how many endpoints a TCP connection tries; 0 is one.
	ConnectAttempts uint32
}

// InboundPolicy is what policies say about connections and requests to a workload, besides what has
// a part of its own. Policies that say the same share it.
type InboundPolicy struct {
	// RBAC decides who may connect; nil lets everybody.
	RBAC *RBAC
	// Connections is how many may be opened; nil does not limit. Chains of one listener share it.
	Connections *Rate
	// Faults are injected one after the other, before limits count the request.
	Faults []Fault
}

// ClusterTimeouts are the timeouts that belong to the connection pool of a destination. Comparable.
type ClusterTimeouts struct {
	Connect, Idle, MaxStream, MaxConnection time.Duration
}

// RouteTimeouts belong to a route. Comparable.
type RouteTimeouts struct {
	Request, StreamIdle time.Duration
}

// Limits bound what one proxy has in flight to a cluster; 0 leaves Envoy's default. Comparable.
type Limits struct {
	Connections, Pools, Pending, Requests, Retries uint32
}

// Outlier ejects endpoints by what is seen of their answers. A detector of 0 does not detect. Comparable.
type Outlier struct {
	Enabled bool
	// Interval between sweeps. An endpoint is out for BaseEjection times the number of its
	// ejections, at most MaxEjection.
	Interval, BaseEjection, MaxEjection time.Duration
	// MaxPercent of the endpoints may be out; with AtLeastOne, one may be out even if that is more.
	MaxPercent uint32
	AtLeastOne bool
	// Split tells failures to connect from failures that the endpoint answers.
	Split bool

	TotalFailures, GatewayFailures, LocalFailures uint32
	SuccessRate                                   SuccessRate
	FailurePercentage                             FailurePercentage
}

// SuccessRate ejects endpoints whose success rate is far below the mean. Comparable.
type SuccessRate struct {
	Enabled             bool
	MinHosts, MinVolume uint32
	// Factor of the standard deviation, in thousandths.
	Factor uint32
}

// FailurePercentage ejects endpoints that fail more than a share of requests. Comparable.
type FailurePercentage struct {
	Enabled                        bool
	MinHosts, MinVolume, Threshold uint32
}

// Panic is the percentage of healthy endpoints below which their health is ignored. The zero Panic
// leaves Envoy's default; 0 percent never ignores it. Comparable.
type Panic struct {
	Set     bool
	Percent float64
}

// HealthCheck asks endpoints whether they are healthy. The protocol says how: HTTP1 and HTTP2 by a
// request, GRPC by the standard health service, TCP by connecting and exchanging bytes.
type HealthCheck struct {
	Protocol Protocol
	// Interval between checks, and NoTraffic instead while the cluster has had no request yet.
	Interval, Timeout, NoTraffic time.Duration
	Unhealthy, Healthy           uint32
	InitialJitter                time.Duration
	IntervalJitter               time.Duration
	IntervalJitterPercent        uint32
	// OneShot closes the connection after each check.
	OneShot bool
	// LogPath is a file for changes of health; with LogAlways every failure is written.
	LogPath   string
	LogAlways bool

	Path     string
	Expected []uint32
	Headers  HeaderEdit

	Send    []byte
	Receive [][]byte

	Service, Authority string
}

// Retry is what happens to requests that failed.
type Retry struct {
	// On are Envoy's conditions.
	On    []string
	Count uint32
	// PerTry bounds one try; 0 leaves the request's own timeout.
	PerTry time.Duration
	// Base and Max of the pause between tries.
	Base, Max time.Duration
	// Reset headers of an answer say how long to wait, up to MaxReset (0: Envoy's default).
	Reset    []ResetHeader
	MaxReset time.Duration
	Codes    []uint32
	// Requests must match one of these to be retried at all, if there is one.
	Requests []ValueMatch
	// Answers that match one of these are retried.
	Answers []ValueMatch
	// OtherHosts avoids endpoints that this request has tried, OmitTags those with tags.
	OtherHosts bool
	OmitTags   []map[string]string
	// OtherPriorities is after how many tries another priority is chosen; 0 never.
	OtherPriorities uint32
	// Selections is how many picks of an endpoint to avoid are thrown back before one is taken.
	Selections int64
}

// ResetHeader is a header that says when to try again: in seconds, or at a Unix time.
type ResetHeader struct {
	Name string
	Unix bool
}

// Algorithm picks an endpoint for a request or a connection.
type Algorithm uint8

// Algorithms.
const (
	RoundRobin Algorithm = iota
	LeastRequest
	Random
	RingHash
	Maglev
)

// LoadBalancer is an algorithm with its settings; zero settings leave Envoy's own. Comparable.
type LoadBalancer struct {
	Algorithm Algorithm
	// Choices is how many endpoints LeastRequest compares.
	Choices uint32
	// Bias of LeastRequest: how much requests in flight count against an endpoint's weight. It
	// counts if HasBias.
	Bias    float64
	HasBias bool
	// Murmur hashes a ring by MurmurHash2 instead of XXHash.
	Murmur           bool
	MinRing, MaxRing uint64
	// Table is the size of Maglev's table: a prime.
	Table uint64
}

// HashSource is what of a request is hashed.
type HashSource uint8

// Hash sources.
const (
	HashHeader HashSource = iota
	HashCookie
	HashSourceIP
	HashQuery
	HashFilterState
)

// HashPolicy is one part of the hash by which RingHash and Maglev keep a caller at an endpoint. Comparable.
type HashPolicy struct {
	Source HashSource
	// Name of the header, cookie, query parameter or object of the filter state.
	Name string
	// TTL makes a cookie where there is none, if HasTTL; zero is a cookie of the session.
	TTL    time.Duration
	HasTTL bool
	Path   string
	// Terminal ends the list if this part gave a hash.
	Terminal bool
}

// Awareness is what policies say of localities, the same for all callers.
type Awareness struct {
	// Spread puts other zones beside the caller's.
	Spread bool
	// Chosen says that only the zones of Steps follow the caller's.
	Chosen   bool
	Affinity []AffinityTag
	Steps    []FailoverStep
	// Overprovisioning is as in [Endpoints].
	Overprovisioning uint32
}

// AffinityTag weights the instances of the caller's zone that share a tag with the caller.
type AffinityTag struct {
	Tag    string
	Weight uint32
}

// FailoverStep is one step from the caller's zone to others.
type FailoverStep struct {
	// Everywhere is a step of callers in all zones, else of those in From.
	Everywhere bool
	From       []string
	// Except accepts all zones but those in Zones, else those alone are accepted.
	Except bool
	Zones  []string
}

// Rate is a token bucket of Num tokens that is filled up each Interval. Comparable.
type Rate struct {
	Num      uint32
	Interval time.Duration
}

// RequestLimit is how many requests are let through, and the answer to the others. A Rate of zero
// lets all through.
type RequestLimit struct {
	Rate
	// Status 0 is 429.
	Status  uint32
	Headers HeaderEdit
}

// Fault is what is done to a share of the requests of some callers.
type Fault struct {
	// Name of the policy that says so.
	Name string
	// Callers of whom one must fit; none is everybody.
	Callers []IdentityMatch
	// Principal is the older form of Callers; nil is everybody.
	Principal *Principal
	// Shares are millionths of the requests. A part whose share is 0 is left out.
	Abort, Delay, Slow uint32
	// AbortStatus is 200 to 599.
	AbortStatus uint32
	// DelayBy is more than 0.
	DelayBy time.Duration
	// SlowTo is KiB a second of the answer, at least 1.
	SlowTo uint64
}

// RBAC decides who may connect. Rules are read in order and the first match decides; no match
// denies. With Principals instead (the older form), a caller that is one of them is allowed.
type RBAC struct {
	ByRules bool
	Rules   []Rule
	// Shadow rules are only counted.
	Shadow []Rule

	Principals       []Principal
	ShadowPrincipals []Principal
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

// Principal is a set of callers: those that have all URIs of All and, of each element of Not, lack
// at least one.
type Principal struct {
	All []URIMatch
	Not [][]URIMatch
}
