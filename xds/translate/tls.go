package translate

import (
	"cmp"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func prefix(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

// regex matches the whole text. Envoy takes no empty expression.
func regex(s string) *matcherv3.RegexMatcher { return &matcherv3.RegexMatcher{Regex: cmp.Or(s, "()")} }

func commonTLS(meshName string, sans []string, alpn ...string) *tlsv3.CommonTlsContext {
	validation := &tlsv3.CertificateValidationContext{}
	uri := func(m *matcherv3.StringMatcher) {
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames,
			&tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m})
	}
	for _, s := range sans {
		uri(exact(s))
	}
	if len(sans) == 0 {
		uri(prefix("spiffe://" + meshName + "/"))
	}
	return &tlsv3.CommonTlsContext{
		AlpnProtocols: alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
			Name:      ir.IdentitySecret(meshName),
			SdsConfig: ads(),
		}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: validation,
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{
					Name:      ir.CASecret(meshName),
					SdsConfig: ads(),
				},
			},
		},
	}
}

func upstreamTLS(t *ir.UpstreamTLS) (*corev3.TransportSocket, error) {
	a, err := pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: commonTLS(t.Mesh, t.SANs, "kuma"), Sni: t.SNI})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a},
	}, nil
}

func downstreamTLS(meshName string) (*corev3.TransportSocket, error) {
	// gRPC's C core takes no server that does not answer its ALPN. Sidecars offer "kuma" and go on
	// without an answer.
	a, err := pack(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:         commonTLS(meshName, nil, "h2"),
		RequireClientCertificate: wrapperspb.Bool(true),
	})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a},
	}, nil
}

// Secret is the SDS secret.
func Secret(s ir.Secret) *tlsv3.Secret {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	if len(s.Trust) > 0 {
		return &tlsv3.Secret{
			Name: s.Name,
			Type: &tlsv3.Secret_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(s.Trust)},
			},
		}
	}
	return &tlsv3.Secret{
		Name: s.Name,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(s.Chain),
			PrivateKey:       inline(s.Key),
		}},
	}
}
