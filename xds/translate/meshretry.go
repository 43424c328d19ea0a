package translate

import (
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_host_metadata/v3"
	hostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshRetryVirtualHost(out *routev3.VirtualHost, c *ir.RouteConfig) error {
	var err error
	out.RetryPolicy, err = retryPolicy(c.Common.Retry)
	return err
}

func meshRetryRoute(out *routev3.Route, r *ir.Route, c *ir.RouteConfig) error {
	a := out.GetRoute()
	if a == nil || r.Retry == c.Common.Retry {
		return nil
	}
	var err error
	if a.RetryPolicy, err = retryPolicy(r.Retry); err == nil && a.RetryPolicy == nil {
		a.RetryPolicy = &routev3.RetryPolicy{NumRetries: u32(0)} // or the virtual host's would hold
	}
	return err
}

func meshRetryConnections(out *tcpv3.TcpProxy, c *ir.Chain) {
	if c.ConnectAttempts > 0 {
		out.MaxConnectAttempts = u32(c.ConnectAttempts)
	}
}

// meshRetryCallHost is about all routes: gRPC libraries read retries there.
func meshRetryCallHost(out *routev3.VirtualHost, c *ir.RouteConfig) {
	if retry, ok := c.Common.Retry.Get(); ok {
		out.RetryPolicy = callRetry(retry)
	}
}

// retryPolicy is nil if nothing is retried.
func retryPolicy(s ir.Shared[ir.Retry]) (*routev3.RetryPolicy, error) {
	r, ok := s.Get()
	if !ok {
		return nil, nil
	}
	out := &routev3.RetryPolicy{
		RetryOn:                       strings.Join(r.On, ","),
		NumRetries:                    u32(r.Count),
		RetriableStatusCodes:          slices.Clone(r.Codes),
		RetriableRequestHeaders:       headerMatchers(r.Requests),
		RetriableHeaders:              headerMatchers(r.Answers),
		HostSelectionRetryMaxAttempts: r.Selections,
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(r.Base),
			MaxInterval:  durationpb.New(r.Max),
		},
	}
	if r.PerTry > 0 {
		out.PerTryTimeout = durationpb.New(r.PerTry)
	}
	if len(r.Reset) > 0 {
		out.RateLimitedRetryBackOff = &routev3.RetryPolicy_RateLimitedRetryBackOff{}
		for _, h := range r.Reset {
			format := routev3.RetryPolicy_SECONDS
			if h.Unix {
				format = routev3.RetryPolicy_UNIX_TIMESTAMP
			}
			out.RateLimitedRetryBackOff.ResetHeaders = append(out.RateLimitedRetryBackOff.ResetHeaders,
				&routev3.RetryPolicy_ResetHeader{
					Name:   h.Name,
					Format: format,
				})
		}
		if r.MaxReset > 0 {
			out.RateLimitedRetryBackOff.MaxInterval = durationpb.New(r.MaxReset)
		}
	}
	predicate := func(name string, m proto.Message) error {
		a, err := pack(m)
		out.RetryHostPredicate = append(out.RetryHostPredicate, &routev3.RetryPolicy_RetryHostPredicate{
			Name:       "envoy.retry_host_predicates." + name,
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: a},
		})
		return err
	}
	if r.OtherHosts {
		if err := predicate("previous_hosts", &hostsv3.PreviousHostsPredicate{}); err != nil {
			return nil, err
		}
	}
	for _, tags := range r.OmitTags {
		if err := predicate("omit_host_metadata",
			&metadatav3.OmitHostMetadataConfig{MetadataMatch: tagMetadata(tags)}); err != nil {
			return nil, err
		}
	}
	if r.OtherPriorities > 0 {
		a, err := pack(&prioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: int32(r.OtherPriorities)})
		if err != nil {
			return nil, err
		}
		out.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name:       "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: a},
		}
	}
	return out, nil
}

// What gRPC takes of retries. It attempts a call five times at most. The C core counts
// milliseconds: of a base of one it makes none for every second call, and these calls then hang
// until their deadline. Node's timers know no pause of a month.
const (
	callRetries     = 4
	minCallBase     = 5 * time.Millisecond
	maxCallPause    = time.Hour
	callUnavailable = "unavailable"
)

// callConditions are those of gRPC; what else Envoy calls a failure of a request's way is
// UNAVAILABLE to a gRPC client.
var callConditions = []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted",
	callUnavailable}

// callRetry is nil if nothing is retried that gRPC could retry.
func callRetry(r ir.Retry) *routev3.RetryPolicy {
	var on []string
	for _, c := range r.On {
		switch {
		case slices.Contains(callConditions, c):
		case slices.Contains(wayConditions, c):
			c = callUnavailable
		case c == "retriable-status-codes" &&
			slices.ContainsFunc(r.Codes,
				func(code uint32) bool { return slices.Contains(unavailableCodes, code) }):
			c = callUnavailable
		default:
			continue
		}
		if !slices.Contains(on, c) {
			on = append(on, c)
		}
	}
	if r.Count == 0 || len(on) == 0 {
		return nil
	}
	slices.Sort(on)
	base := min(max(r.Base, minCallBase), maxCallPause)
	return &routev3.RetryPolicy{
		RetryOn:    strings.Join(on, ","),
		NumRetries: u32(min(r.Count, callRetries)),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(base),
			MaxInterval:  durationpb.New(min(max(r.Max, base), maxCallPause)),
		},
	}
}

// wayConditions are Envoy's for what happens on a request's way, unavailableCodes the HTTP codes
// that gRPC reads as UNAVAILABLE.
var (
	wayConditions = []string{"5xx", "gateway-error", "connect-failure", "refused-stream", "reset",
		"reset-before-request", "http3-post-connect-failure"}
	unavailableCodes = []uint32{429, 502, 503, 504}
)
