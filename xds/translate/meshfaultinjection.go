package translate

import (
	"regexp"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	httpfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	netinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshFaultInjectionRequests(out *managerMessage, c *ir.Chain) error {
	for _, f := range c.Faults {
		m, err := fault(f)
		if err != nil {
			return err
		}
		if err := out.add(f.Name, m); err != nil {
			return err
		}
	}
	return nil
}

// fault is the filter of one fault. One that is about some callers is wrapped: others skip it.
func fault(f ir.Fault) (proto.Message, error) {
	c := &httpfaultv3.HTTPFault{}
	if f.Abort > 0 {
		c.Abort = &httpfaultv3.FaultAbort{
			ErrorType:  &httpfaultv3.FaultAbort_HttpStatus{HttpStatus: f.AbortStatus},
			Percentage: share(f.Abort),
		}
	}
	if f.Delay > 0 {
		c.Delay = &faultv3.FaultDelay{
			FaultDelaySecifier: &faultv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(f.DelayBy)},
			Percentage:         share(f.Delay),
		}
	}
	if f.Slow > 0 {
		c.ResponseRateLimit = &faultv3.FaultRateLimit{LimitType: &faultv3.FaultRateLimit_FixedLimit_{
			FixedLimit: &faultv3.FaultRateLimit_FixedLimit{LimitKbps: f.SlowTo}}, Percentage: share(f.Slow)}
	}
	p, err := faultCallers(f)
	if err != nil || p == nil {
		return c, err
	}
	skip, err := pack(&skipv3.SkipFilter{})
	if err != nil {
		return nil, err
	}
	inner, err := pack(c)
	if err != nil {
		return nil, err
	}
	others := &matchPredicate{
		MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
	return &matchingv3.ExtensionWithMatcher{
		XdsMatcher: &xdsmatcherv3.Matcher{
			MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
				Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
					Predicate: others,
					OnMatch: &xdsmatcherv3.Matcher_OnMatch{
						OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
							Name:        "skip",
							TypedConfig: skip,
						}}},
				}}}}},
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.fault", TypedConfig: inner},
	}, nil
}

func share(millionths uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: millionths, Denominator: typev3.FractionalPercent_MILLION}
}

type matchPredicate = xdsmatcherv3.Matcher_MatcherList_Predicate

// faultCallers is who meets the fault; nil is everybody. Envoy gives a certificate's URIs joined by commas.
func faultCallers(f ir.Fault) (*matchPredicate, error) {
	if f.Principal != nil {
		var terms []*matchPredicate
		for _, u := range f.Principal.All {
			p, err := presentsURI(u)
			if err != nil {
				return nil, err
			}
			terms = append(terms, p)
		}
		for _, not := range f.Principal.Not {
			var inner []*matchPredicate
			for _, u := range not {
				p, err := presentsURI(u)
				if err != nil {
					return nil, err
				}
				inner = append(inner, p)
			}
			not := &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: allOf(inner)}
			terms = append(terms, &matchPredicate{MatchType: not})
		}
		return allOf(terms), nil
	}
	var alternatives []*matchPredicate
	for _, m := range f.Callers {
		var terms []*matchPredicate
		if m.SpiffeID != "" {
			p, err := compareInput("uri", &sslinputv3.UriSanInput{}, regexMatcher(callerPattern(m)))
			if err != nil {
				return nil, err
			}
			terms = append(terms, p)
		}
		if m.SNI != "" {
			p, err := compareInput("sni", &netinputv3.ServerNameInput{},
				&xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: m.SNI}})
			if err != nil {
				return nil, err
			}
			terms = append(terms, p)
		}
		alternatives = append(alternatives, allOf(terms))
	}
	switch len(alternatives) {
	case 0:
		return nil, nil
	case 1:
		return alternatives[0], nil
	}
	return &matchPredicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: alternatives}}}, nil
}

func presentsURI(u ir.URIMatch) (*matchPredicate, error) {
	pattern := regexp.QuoteMeta(u.URI)
	if u.Prefix {
		pattern += "[^,]*"
	}
	return compareInput("uri", &sslinputv3.UriSanInput{}, regexMatcher(amongURIs(pattern)))
}

func regexMatcher(pattern string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{
		MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
			EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{
				GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
			Regex: pattern,
		}}}
}

func compareInput(name string, input proto.Message,
	value *xdsmatcherv3.StringMatcher) (*matchPredicate, error) {
	a, err := pack(input)
	if err != nil {
		return nil, err
	}
	return &matchPredicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: a},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
				ValueMatch: value,
			},
		}}}, nil
}

// allOf holds if all terms hold; there is at least one.
func allOf(terms []*matchPredicate) *matchPredicate {
	if len(terms) == 1 {
		return terms[0]
	}
	return &matchPredicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: terms}}}
}
