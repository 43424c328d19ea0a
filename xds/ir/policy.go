package ir

import "time"

// What policies say is grouped by the part of the output that it changes, so that a policy
// recomputes only what it is about. All four groups are comparable: equal ones share one cluster, one
// listener or one set of routes. A kind of policy that says more than scalars puts it in a
// [Shared].

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
