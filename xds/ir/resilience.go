package ir

import "time"

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
