package validate

import "testing"

func routeDoc(rule string) string {
	return "type: MeshHTTPRoute\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: b}, rules: [" +
		rule + "]}]}"
}

func TestValidateRoute(t *testing.T) {
	t.Parallel()

	match := func(m string) string { return routeDoc("{matches: [" + m + "], default: {}}") }
	filter := func(f string) string {
		return routeDoc("{matches: [{path: {type: PathPrefix, value: /a}}], default: {filters: [" + f + "]}}")
	}
	backend := func(b string) string {
		return routeDoc("{matches: [{}], default: {backendRefs: [" + b + "]}}")
	}
	const (
		m = "spec.to[0].rules[0].matches[0]."
		f = "spec.to[0].rules[0].default.filters[0]."
		b = "spec.to[0].rules[0].default.backendRefs[0]."
	)
	for _, tt := range []refused{
		{"nothing", "type: MeshHTTPRoute\nname: a\nspec: {}", nil},
		{"all of a match", match("{path: {type: Exact, value: /}, method: GET, headers: [{name: " +
			"x-a, value: " +
			"b}, {name: x-b, type: Present}], queryParams: [{type: Exact, name: a, value: b}]}"), nil},
		{"no matches", routeDoc("{default: {}}"),
			[]string{"spec.to[0].rules[0].matches: must have at least one item"}},
		{"no default", routeDoc("{matches: [{}]}"), []string{"spec.to[0].rules[0].default: is required"}},
		{"exact path", match("{path: {type: Exact, value: a}}"),
			[]string{m + "path.value: must begin with a slash"}},
		{"prefix", match("{path: {type: PathPrefix, value: /a/}}"),
			[]string{m + "path.value: must not end with a slash: a prefix ends at a path segment anyway"}},
		{"path type", match("{path: {type: Prefix, value: /a}}"),
			[]string{m + "path.type: must be one of Exact, PathPrefix, RegularExpression"}},
		{"no value", match("{path: {type: Exact}}"), []string{m + "path.value: is required"}},
		{"expressions",
			match("{path: {type: RegularExpression, value: '/('}, headers: [{name: a, type: " +
				"RegularExpression, " +
				"value: '(?=x)'}], queryParams: [{name: a, type: RegularExpression, value: '['}]}"), []string{
				m + "path.value: is not a regular expression in RE2 syntax: missing closing ): `/(`",
				m + "headers[0].value: is not a regular expression in RE2 syntax: invalid or " +
					"unsupported Perl " +
					"syntax: `(?=`",
				m + "queryParams[0].value: is not a regular expression in RE2 syntax: missing " +
					"closing ]: `[`"}},
		{"method", match("{method: get}"),
			[]string{m + "method: must be one of CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, " +
				"POST, PUT, TRACE"}},
		{"headers", match("{headers: [{name: X-A, value: b}, {name: a, type: Present, value: b}, " +
			"{name: ''}]}"), []string{
			m + "headers[0].name: must be a header name in lower case",
			m + "headers[1].value: must not be given with type Present", m + "headers[2].name: is required"}},
		{"query twice", match("{queryParams: [{type: Exact, name: a}, {type: Exact, name: a}, {name: b}]}"),
			[]string{
				m + "queryParams[1].name: is given twice in one match",
				m + "queryParams[2].type: is required: one of Exact, RegularExpression"}},
		{"to mesh", "type: MeshHTTPRoute\nname: a\nspec: {to: [{targetRef: {kind: Mesh}}]}",
			[]string{"spec.to[0].targetRef.kind: Mesh is not supported here: use one of MeshService, " +
				"MeshExternalService, MeshMultiZoneService"}},
		{"hostnames", "type: MeshHTTPRoute\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: b}, " +
			"hostnames: [a]}]}",
			[]string{"spec.to[0].hostnames: must not be given: only routes of a MeshGateway have hostnames"}},
		{"body missing", filter("{type: RequestHeaderModifier}"),
			[]string{f + "requestHeaderModifier: is required for a filter of type RequestHeaderModifier"}},
		{"body of another", filter("{type: URLRewrite, requestRedirect: {}}"),
			[]string{f + "urlRewrite: is required for a filter of type URLRewrite"}},
		{"modifier empty", filter("{type: ResponseHeaderModifier, responseHeaderModifier: {}}"),
			[]string{f + "responseHeaderModifier: needs at least one of set, add and remove"}},
		{"modifier twice", filter("{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, " +
			"value: b}], add: [{name: a, value: b}], remove: [a]}}"), []string{
			f + "requestHeaderModifier.add[0].name: is given twice: a header is set, added to or " +
				"removed once",
			f + "requestHeaderModifier.remove[0]: is given twice: a header is set, added to or " +
				"removed once"}},
		{"too many", filter("{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a, b, " +
			"c, d, e, f, " +
			"g, h, i, j, k, l, m, n, o, p, q]}}"),
			[]string{f + "requestHeaderModifier.remove: must have at most 16 items"}},
		{"rewrite without value",
			filter("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /b}}}"),
			[]string{f + "urlRewrite.path.replaceFullPath: is required for type ReplaceFullPath"}},
		{"redirect without value",
			filter("{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch}}}"),
			[]string{f + "requestRedirect.path.replacePrefixMatch: is required for type ReplacePrefixMatch"}},
		{"replace with nothing",
			filter("{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, " +
				"replacePrefixMatch: ''}}}"), nil},
		{"prefix rewrite of exact",
			routeDoc("{matches: [{path: {type: PathPrefix, value: /a}}, {path: {type: Exact, value: /a}}], " +
				"default: {filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, " +
				"replacePrefixMatch: /b}}}]}}"), []string{
				f + "urlRewrite.path.replacePrefixMatch: needs a path of type PathPrefix in every match " +
					"of the rule"}},
		{"redirect", filter("{type: RequestRedirect, requestRedirect: {scheme: ftp, hostname: " +
			"10.0.0.1, port: " +
			"0, statusCode: 304}}"), []string{
			f + "requestRedirect.scheme: must be one of http, https",
			f + "requestRedirect.hostname: must be a DNS name, not an address",
			f + "requestRedirect.port: must be a number from 1 to 65535",
			f + "requestRedirect.statusCode: must be one of 301, 302, 303, 307, 308"}},
		{"redirect and mirror",
			filter("{type: RequestMirror, requestMirror: {backendRef: {kind: MeshService, name: " +
				"c}}}, {type: " +
				"RequestRedirect, requestRedirect: {}}"), []string{
				"spec.to[0].rules[0].default.filters[0]: RequestMirror cannot be combined with " +
					"RequestRedirect " +
					"in one rule"}},
		{"host to backend", filter("{type: URLRewrite, urlRewrite: {hostToBackendHostname: true}}"),
			[]string{f + "urlRewrite.hostToBackendHostname: must not be given: only routes of a " +
				"MeshGateway have it"}},
		{"mirror percentage",
			filter("{type: RequestMirror, requestMirror: {percentage: 101, backendRef: {kind: MeshService, " +
				"name: c}}}, {type: RequestMirror, requestMirror: {percentage: '2.5%', backendRef: {kind: " +
				"MeshService, name: c}}}, {type: RequestMirror, requestMirror: {percentage: '2.5', " +
				"backendRef: " +
				"{kind: MeshMultiZoneService, name: c, port: 80}}}"), []string{
				f + "requestMirror.percentage: must be from 0 to 100",
				"spec.to[0].rules[0].default.filters[1].requestMirror.percentage: must be a " +
					"number, such as " +
					"5 or \"2.5\""}},
		{"mirror without backend", filter("{type: RequestMirror, requestMirror: {}}"),
			[]string{f + "requestMirror.backendRef: is required"}},
		{"filter type", filter("{type: Redirect}"),
			[]string{f + "type: must be one of RequestHeaderModifier, ResponseHeaderModifier, " +
				"RequestRedirect, " +
				"URLRewrite, RequestMirror"}},
		{"backend", backend("{kind: MeshService, name: c, port: 80, weight: 0}"), nil},
		{"backend kind", backend("{kind: Mesh}"),
			[]string{b + "kind: must be one of MeshService, MeshServiceSubset, MeshExternalService, " +
				"MeshMultiZoneService"}},
		{"multi-zone without port", backend("{kind: MeshMultiZoneService, name: c}"),
			[]string{b + "port: is required for a MeshMultiZoneService, or sectionName"}},
		{"backend by nothing", backend("{kind: MeshService, port: 80}"),
			[]string{"spec.to[0].rules[0].default.backendRefs[0]: needs a name or labels"}},
		{"backend port", backend("{kind: MeshService, name: c, port: 65536}"),
			[]string{b + "port: must be a number from 1 to 65535"}},
	} {
		tt.run(t)
	}
}
