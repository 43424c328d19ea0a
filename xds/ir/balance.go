package ir

import "time"

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
