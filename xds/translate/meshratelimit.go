package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httplimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	netlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// limitFilter is the name of the filter, by which routes and virtual hosts configure it.
const limitFilter = "envoy.filters.http.local_ratelimit"

// maxLimitHeaders is how many headers Envoy takes; one more and it refuses the listener.
const maxLimitHeaders = 10

// The bucket of everybody is the virtual host's, so that routes which differ in something else
// share it; a route has its own if it limits differently.

func meshRateLimitNetwork(out *chainMessage, l *ir.Listener, c *ir.Chain) error {
	if c.Connections == nil {
		return nil
	}
	return out.first("envoy.filters.network.local_ratelimit", connectionLimit(l.Name, *c.Connections))
}

func meshRateLimitRequests(out *managerMessage, c *ir.Chain) error {
	if !limits(c.HTTP.Routes) {
		return nil
	}
	return out.add(limitFilter, &httplimitv3.LocalRateLimit{StatPrefix: "rate_limit"})
}

func meshRateLimitVirtualHost(out *routev3.VirtualHost, c *ir.RouteConfig) error {
	l, ok := c.Common.Limit.Get()
	if !ok {
		return nil
	}
	var err error
	out.TypedPerFilterConfig, err = perRoute(&l)
	return err
}

func meshRateLimitRoute(out *routev3.Route, r *ir.Route, _ *ir.RouteConfig) error {
	l, ok := r.Limit.Get()
	if !ok {
		return nil
	}
	var err error
	out.TypedPerFilterConfig, err = perRoute(&l)
	return err
}

// limits says that a route configuration needs the filter.
func limits(c *ir.RouteConfig) bool {
	if c == nil {
		return false
	}
	if _, ok := c.Common.Limit.Get(); ok {
		return true
	}
	for i := range c.Routes {
		if _, ok := c.Routes[i].Limit.Get(); ok {
			return true
		}
	}
	return false
}

func bucket(r ir.Rate) *typev3.TokenBucket {
	return &typev3.TokenBucket{
		MaxTokens:     r.Num,
		TokensPerFill: u32(r.Num),
		FillInterval:  durationpb.New(r.Interval),
	}
}

// perRoute is the configuration of the limit filter for a route or a virtual host.
func perRoute(l *ir.RequestLimit) (map[string]*anypb.Any, error) {
	var m proto.Message = &routev3.FilterConfig{Disabled: true}
	if l.Num > 0 {
		always := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
		c := &httplimitv3.LocalRateLimit{
			StatPrefix:           "rate_limit",
			TokenBucket:          bucket(l.Rate),
			FilterEnabled:        always,
			FilterEnforced:       always,
			ResponseHeadersToAdd: headers(l.Headers),
		}
		c.ResponseHeadersToAdd = c.ResponseHeadersToAdd[:min(len(c.ResponseHeadersToAdd), maxLimitHeaders)]
		// A status that Envoy has no name for would be refused with the listener; 429 is what it
		// answers without one.
		if _, known := typev3.StatusCode_name[int32(l.Status)]; known && l.Status >= 400 {
			c.Status = &typev3.HttpStatus{Code: typev3.StatusCode(l.Status)}
		}
		m = c
	}
	a, err := pack(m)
	return map[string]*anypb.Any{limitFilter: a}, err
}

// connectionLimit closes connections above the rate. All chains of a listener share the bucket.
func connectionLimit(listener string, r ir.Rate) *netlimitv3.LocalRateLimit {
	return &netlimitv3.LocalRateLimit{
		StatPrefix:  "tcp_rate_limit",
		TokenBucket: bucket(r),
		ShareKey:    listener,
	}
}
