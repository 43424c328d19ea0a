package translate

import (
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_host_metadata/v3"
	hostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

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
