package translate

import (
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	statev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	netstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/meridian-mesh/meridian/xds/ir"
)

const (
	callerKey     = "meridian.caller"
	callerNameKey = "meridian.caller.sni"
)

// callerState notes who the caller is where routes can see it. Several URI SANs are joined by commas.
func callerState() *netstatev3.Config {
	text := func(key, format string) *statev3.FilterStateValue {
		return &statev3.FilterStateValue{
			Key:         &statev3.FilterStateValue_ObjectKey{ObjectKey: key},
			FactoryKey:  "envoy.string",
			SkipIfEmpty: true,
			Value: &statev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{
					TextFormatSource: &corev3.DataSource{
						Specifier: &corev3.DataSource_InlineString{InlineString: format}}}}},
		}
	}
	return &netstatev3.Config{OnDownstreamTlsHandshake: []*statev3.FilterStateValue{
		text(callerKey, "%DOWNSTREAM_PEER_URI_SAN%"), text(callerNameKey, "%REQUESTED_SERVER_NAME%")}}
}

func callerMatch(m ir.IdentityMatch) []*matcherv3.FilterStateMatcher {
	state := func(key string, s *matcherv3.StringMatcher) *matcherv3.FilterStateMatcher {
		return &matcherv3.FilterStateMatcher{
			Key:     key,
			Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: s},
		}
	}
	var out []*matcherv3.FilterStateMatcher
	if m.SpiffeID != "" {
		out = append(out, state(callerKey, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(callerPattern(m))},
		}))
	}
	if m.SNI != "" {
		out = append(out, state(callerNameKey, exact(m.SNI)))
	}
	return out
}

// amongURIs finds a pattern of one URI in a list joined by commas.
func amongURIs(one string) string { return "(.*,)?" + one + "(,.*)?" }

// callerPattern is the identity of m in a list joined by commas: itself or, for a prefix, what is below it.
func callerPattern(m ir.IdentityMatch) string {
	id := regexp.QuoteMeta(strings.TrimSuffix(m.SpiffeID, "/"))
	if m.Prefix {
		id += "(/[^,]*)?"
	}
	return amongURIs(id)
}
