package translate

import (
	"math"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// missingBackend is the name of a cluster that never exists: its share of a route answers 500, its
// connections are closed.
const missingBackend = "missing_backend"

// RouteConfig is the route configuration.
func RouteConfig(c ir.RouteConfig) (*routev3.RouteConfiguration, error) { return routeConfig(&c) }

func routeConfig(c *ir.RouteConfig) (*routev3.RouteConfiguration, error) {
	vh := &routev3.VirtualHost{Name: c.Name, Domains: []string{"*"}}
	for i := range kinds {
		k := &kinds[i]
		if k.virtualHost != nil {
			if err := k.virtualHost(vh, c); err != nil {
				return nil, of(k.kind, err)
			}
		}
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		out := route(r)
		for n := range kinds {
			k := &kinds[n]
			if k.route != nil {
				if err := k.route(out, r, c); err != nil {
					return nil, of(k.kind, err)
				}
			}
		}
		vh.Routes = append(vh.Routes, out)
	}
	return &routev3.RouteConfiguration{Name: c.Name, VirtualHosts: []*routev3.VirtualHost{vh}}, nil
}

func route(r *ir.Route) *routev3.Route {
	out := &routev3.Route{
		Name:                    r.Name,
		Match:                   routeMatch(r.Match),
		RequestHeadersToAdd:     headers(r.RequestHeaders),
		RequestHeadersToRemove:  r.RequestHeaders.Remove,
		ResponseHeadersToAdd:    headers(r.ResponseHeaders),
		ResponseHeadersToRemove: r.ResponseHeaders.Remove,
	}
	switch {
	case r.Redirect != nil:
		out.Action = &routev3.Route_Redirect{Redirect: redirect(r)}
	case len(r.Backends) == 0:
		out.Action = &routev3.Route_DirectResponse{
			DirectResponse: &routev3.DirectResponseAction{Status: r.Status}}
	default:
		out.Action = &routev3.Route_Route{Route: action(r)}
	}
	return out
}

func redirect(r *ir.Route) *routev3.RedirectAction {
	codes := map[uint32]routev3.RedirectAction_RedirectResponseCode{
		301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND,
		303: routev3.RedirectAction_SEE_OTHER, 307: routev3.RedirectAction_TEMPORARY_REDIRECT,
		308: routev3.RedirectAction_PERMANENT_REDIRECT}
	out := &routev3.RedirectAction{
		HostRedirect: r.Redirect.Host,
		PortRedirect: r.Redirect.Port,
		ResponseCode: codes[r.Redirect.Status],
	}
	if r.Redirect.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Redirect.Scheme}
	}
	switch {
	case r.ReplacePath != nil:
		out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{
			RegexRewrite: wholePath(*r.ReplacePath)}
	case r.ReplacePrefix != nil:
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: *r.ReplacePrefix}
	}
	return out
}

// wholePath replaces the path. A backslash would begin a group of the expression.
func wholePath(to string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{
		Pattern:      regex(".*"),
		Substitution: strings.ReplaceAll(to, `\`, `\\`),
	}
}

func action(r *ir.Route) *routev3.RouteAction {
	a := &routev3.RouteAction{}
	missing := false
	cluster := func(b ir.Backend) string {
		if b.Cluster == "" {
			missing = true
			return missingBackend
		}
		return b.Cluster
	}
	if len(r.Backends) == 1 {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster(r.Backends[0])}
	} else {
		w := &routev3.WeightedCluster{}
		var sum uint64
		for _, b := range r.Backends {
			sum += uint64(b.Weight)
		}
		for _, b := range r.Backends {
			w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{
				Name:   cluster(b),
				Weight: u32(scaledWeight(b.Weight, sum)),
			})
		}
		a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	}
	if missing {
		a.ClusterNotFoundResponseCode = routev3.RouteAction_INTERNAL_SERVER_ERROR
	}
	if r.HostRewrite != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.HostRewrite}
	}
	switch {
	case r.ReplacePath != nil:
		a.RegexRewrite = wholePath(*r.ReplacePath)
	case r.ReplacePrefix != nil:
		a.PrefixRewrite = *r.ReplacePrefix
	}
	for _, m := range r.Mirrors {
		p := &routev3.RouteAction_RequestMirrorPolicy{Cluster: m.Cluster}
		if m.Millionths < 1_000_000 {
			p.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
				Numerator: m.Millionths, Denominator: typev3.FractionalPercent_MILLION}}
		}
		a.RequestMirrorPolicies = append(a.RequestMirrorPolicies, p)
	}
	return a
}

// scaledWeight is a backend's share if the sum of all is more than what clients take: they refuse the routes.
func scaledWeight(weight uint32, sum uint64) uint32 {
	if sum > math.MaxUint32 && weight > 0 {
		return max(1, uint32(uint64(weight)*(math.MaxUint32>>8)/sum))
	}
	return weight
}

func routeMatch(m ir.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch m.PathType {
	case ir.PathExact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path}
	case ir.PathRegex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(m.Path)}
	default:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Path}
	}
	if m.Method != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: ":method",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(m.Method)}})
	}
	out.Headers = append(out.Headers, headerMatchers(m.Headers)...)
	for _, q := range m.Query {
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{Name: q.Name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: value(q)}})
	}
	for _, c := range m.Callers {
		out.FilterState = append(out.FilterState, callerMatch(c)...)
	}
	return out
}

func headerMatchers(list []ir.ValueMatch) []*routev3.HeaderMatcher {
	var out []*routev3.HeaderMatcher
	for _, h := range list {
		hm := &routev3.HeaderMatcher{Name: h.Name}
		switch h.Kind {
		case ir.ValuePresent, ir.ValueAbsent:
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{
				PresentMatch: h.Kind == ir.ValuePresent}
		default:
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: value(h)}
		}
		out = append(out, hm)
	}
	return out
}

func value(v ir.ValueMatch) *matcherv3.StringMatcher {
	switch v.Kind {
	case ir.ValueRegex:
		return &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(v.Value)}}
	case ir.ValuePrefix:
		return prefix(v.Value)
	}
	return exact(v.Value)
}

// headers are values as they are: a percent sign would begin a command of Envoy's, and an unknown
// one has it refuse all.
func headers(e ir.HeaderEdit) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	add := func(list []ir.Header, action corev3.HeaderValueOption_HeaderAppendAction) {
		for _, h := range list {
			out = append(out, &corev3.HeaderValueOption{
				Header:       &corev3.HeaderValue{Key: h.Name, Value: strings.ReplaceAll(h.Value, "%", "%%")},
				AppendAction: action,
				// Without this, a header that is set to nothing keeps what it had.
				KeepEmptyValue: h.Value == "",
			})
		}
	}
	add(e.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add(e.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return out
}
