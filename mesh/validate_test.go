package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// refused runs documents through Decode and Validate and compares what is refused.
type refused struct {
	name, text string
	want       []string
}

func (tt refused) run(t *testing.T) {
	t.Run(tt.name, func(t *testing.T) {
		_, err := Validate(decodeOne(t, tt.text).Resource)
		got := violations(t, err)
		slices.Sort(got)
		want := slices.Sorted(slices.Values(tt.want))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", tt.text, diff)
		}
	})
}

func TestValidateNames(t *testing.T) {
	long := strings.Repeat("a", 64)
	label := "is no key of a label: up to 63 letters, digits, \"-\", \"_\" and \".\", after an " +
		"optional DNS " +
		"name and \"/\""
	value := "has a value that no label may have: up to 63 letters, digits, \"-\", \"_\" and " +
		"\".\", beginning " +
		"and ending with a letter or digit"
	for _, tt := range []refused{
		{"good", "type: Zone\nname: east-1.eu\nlabels: {a.b/c: d_e, f: ''}", nil},
		{"upper case", "type: Zone\nname: East",

			[]string{`name: must be lower-case letters, digits, "-" and ".", and begin and end with a letter or digit`}},
		{"ends with dash", "type: Zone\nname: e-",
			[]string{`name: must be lower-case letters, digits, "-" and ".", and begin and end with a letter or digit`}},
		{"long mesh", "type: Mesh\nname: " + long, []string{"name: must have at most 63 characters, has 64"}},
		{"long timeout", "type: MeshHTTPRoute\nname: " + strings.Repeat(long+".", 4) + "a\nspec: {}",
			[]string{"name: must have at most 253 characters, has 261"}},
		{"mesh name", "type: MeshHTTPRoute\nname: a\nmesh: A\nspec: {}",
			[]string{`mesh: is no name of a mesh: lower-case letters, digits, "-", "." and "_", at most 63`}},
		{"labels", "type: Zone\nname: a\nlabels: {'a b': c, d: 'e f', kuma.io/origin: here, " +
			"kuma.io/workload: X}",
			[]string{`labels["a b"]: ` + label, `labels["d"]: ` + value,
				`labels["kuma.io/origin"]: must be global or zone`,
				`labels["kuma.io/workload"]: must be lower-case letters, digits and "-"`}},
		{"long display name", "type: Zone\nname: a\nlabels: {kuma.io/display-name: " + long + "}", nil},
	} {
		tt.run(t)
	}
}

func timeoutDoc(spec string) string { return "type: MeshTimeout\nname: a\nspec: " + spec }
func routeDoc(rule string) string {
	return "type: MeshHTTPRoute\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: b}, rules: [" +
		rule + "]}]}"
}
func permissionDoc(spec string) string { return "type: MeshTrafficPermission\nname: a\nspec: " + spec }

const anyTimeout = "default: {idleTimeout: 1s}"

func TestValidateTargets(t *testing.T) {
	top := func(ref string) string {
		return timeoutDoc("{targetRef: " + ref + ", to: [{targetRef: {kind: Mesh}, " + anyTimeout + "}]}")
	}
	to := func(ref string) string {
		return timeoutDoc("{to: [{targetRef: " + ref + ", " + anyTimeout + "}]}")
	}
	kinds := "Mesh, MeshSubset, MeshGateway, MeshService, MeshExternalService, MeshMultiZoneService, " +
		"MeshServiceSubset, MeshHTTPRoute, Dataplane"
	for _, tt := range []refused{
		{"mesh", top("{kind: Mesh, proxyTypes: [Sidecar, Gateway]}"), nil},
		{"empty", top("{}"), []string{"spec.targetRef.kind: is required: one of " + kinds}},
		{"unknown kind", top("{kind: Pod}"), []string{"spec.targetRef.kind: must be one of " + kinds}},
		{"mesh with all", top("{kind: Mesh, name: default, namespace: b, labels: {a: b}, " +
			"sectionName: c, tags: " +
			"{d: e}, mesh: f}"), []string{
			"spec.targetRef.mesh: must not be given: a policy is about its own mesh",
			"spec.targetRef.name: must not be given with kind Mesh",
			"spec.targetRef.namespace: must not be given with kind Mesh",
			"spec.targetRef.labels: must not be given with kind Mesh",
			"spec.targetRef.sectionName: must not be given with kind Mesh",
			"spec.targetRef.tags: must not be given with kind Mesh"}},
		{"proxy types", top("{kind: Mesh, proxyTypes: [Sidecar, Sidecar]}"),
			[]string{"spec.targetRef.proxyTypes: must not repeat an item"}},
		{"proxy type", top("{kind: Mesh, proxyTypes: [Egress]}"),
			[]string{"spec.targetRef.proxyTypes[0]: must be one of Sidecar, Gateway"}},
		{"dataplane", top("{kind: Dataplane}"), nil},
		{"dataplane name and labels", top("{kind: Dataplane, name: a, labels: {b: c}}"),
			[]string{"spec.targetRef.labels: cannot be combined with name or namespace"}},
		{"dataplane section without inbound", top("{kind: Dataplane, name: a, sectionName: b}"),
			[]string{"spec.targetRef.sectionName: must not be given: it selects one inbound, and " +
				"the policy " +
				"has neither from nor rules"}},
		{"dataplane section with rules",
			timeoutDoc("{targetRef: {kind: Dataplane, name: a, sectionName: b}, rules: [{" + anyTimeout +
				"}]}"), nil},
		{"dataplane tags", top("{kind: Dataplane, tags: {a: b}, proxyTypes: [Sidecar]}"),
			[]string{"spec.targetRef.tags: must not be given with kind Dataplane",
				"spec.targetRef.proxyTypes: must not be given with kind Dataplane"}},
		{"subset", top("{kind: MeshSubset, tags: {a: 'b c', 'd e': f}}"),

			[]string{`spec.targetRef.tags["a"]: has a value that no tag may have: letters, digits and . - _ :`, `spec.targetRef.tags["d e"]: is no name of a tag: letters, digits and . - _ : /`}},
		{"service subset", top("{kind: MeshServiceSubset, tags: {a: '*'}}"),
			[]string{"spec.targetRef.name: is required"}},
		{"name syntax", top("{kind: MeshService, name: A b}"),
			[]string{`spec.targetRef.name: must be lower-case letters, digits, "-", "." and "_"`}},
		{"external at top", top("{kind: MeshExternalService, name: a}"),
			[]string{"spec.targetRef.kind: MeshExternalService is not supported here: use one of Mesh, " +
				"Dataplane, MeshSubset, MeshService, MeshServiceSubset, MeshGateway, MeshHTTPRoute"}},
		{"service in to", to("{kind: MeshService, name: a, sectionName: b, namespace: c}"), nil},
		{"service by nothing", to("{kind: MeshService}"),
			[]string{"spec.to[0].targetRef: needs a name or labels"}},
		{"multi-zone by nothing (decision 22)", to("{kind: MeshMultiZoneService}"),
			[]string{"spec.to[0].targetRef: needs a name or labels"}},
		{"service by both", to("{kind: MeshService, namespace: a, labels: {b: c}}"),
			[]string{"spec.to[0].targetRef.labels: cannot be combined with name or namespace"}},
		{"route with section", to("{kind: MeshHTTPRoute, name: a, sectionName: b}"),
			[]string{"spec.to[0].targetRef.sectionName: must not be given with kind MeshHTTPRoute"}},
		{"dataplane in to", to("{kind: Dataplane}"),
			[]string{"spec.to[0].targetRef.kind: Dataplane is not supported here: use one of Mesh, " +
				"MeshService, MeshExternalService, MeshMultiZoneService, MeshHTTPRoute"}},
		{"no target in to", timeoutDoc("{to: [{" + anyTimeout + "}]}"),
			[]string{"spec.to[0].targetRef: is required"}},
		{"bad label", to("{kind: MeshService, labels: {'a b': c}}"),
			[]string{`spec.to[0].targetRef.labels["a b"]: is no key of a label`}},
	} {
		tt.run(t)
	}
}

func TestValidateTimeout(t *testing.T) {
	to := func(conf string) string {
		return timeoutDoc("{to: [{targetRef: {kind: Mesh}, default: " + conf + "}]}")
	}
	for _, tt := range []refused{
		{"all", to("{connectionTimeout: 1s, idleTimeout: 0s, http: {requestTimeout: 0s, " +
			"streamIdleTimeout: 1s, " +
			"maxStreamDuration: 0s, maxConnectionDuration: 0s, requestHeadersTimeout: 0s}}"), nil},
		{"headers alone (decision 19)", to("{http: {requestHeadersTimeout: 1s}}"), nil},
		{"nothing", timeoutDoc("{}"), []string{"spec: needs at least one of to, rules and from"}},
		{"rules and to", timeoutDoc("{to: [{targetRef: {kind: Mesh}, " + anyTimeout + "}], rules: [{" +
			anyTimeout + "}]}"), []string{"spec: must not combine rules with to or from: make two policies"}},
		{"empty conf", to("{}"),
			[]string{"spec.to[0].default: needs at least one of connectionTimeout, idleTimeout and http"}},
		{"no conf", timeoutDoc("{rules: [{}]}"),
			[]string{"spec.rules[0].default: needs at least one of connectionTimeout, idleTimeout and http"}},
		{"empty http", to("{http: {}}"),
			[]string{"spec.to[0].default.http: needs at least one of requestTimeout, streamIdleTimeout, " +
				"maxStreamDuration, maxConnectionDuration and requestHeadersTimeout"}},
		{"ranges", to("{connectionTimeout: 0s, idleTimeout: -1s, http: {requestTimeout: -1s, " +
			"requestHeadersTimeout: -1s}}"), []string{
			"spec.to[0].default.connectionTimeout: must be longer than 0",
			"spec.to[0].default.idleTimeout: must not be negative; 0 turns it off",
			"spec.to[0].default.http.requestTimeout: must not be negative; 0 turns it off",
			"spec.to[0].default.http.requestHeadersTimeout: must not be negative; 0 turns it off"}},
		{"from service", timeoutDoc("{from: [{targetRef: {kind: MeshService, name: a}, " + anyTimeout +
			"}]}"), []string{"spec.from[0].targetRef.kind: MeshService is not supported here: use " +
			"one of Mesh"}},
		{"gateway", timeoutDoc("{targetRef: {kind: MeshGateway, name: a}, from: [{targetRef: {kind: Mesh}, " +
			anyTimeout + "}], to: [{targetRef: {kind: MeshService, name: a}, " + anyTimeout + "}]}"),
			[]string{
				"spec.from: must not be given with a top-level MeshGateway",
				"spec.to[0].targetRef.kind: MeshService is not supported here: use one of Mesh, " +
					"MeshExternalService"}},
		{"top route", timeoutDoc("{targetRef: {kind: MeshHTTPRoute, name: a}, to: [{targetRef: " +
			"{kind: Mesh}, " +
			"default: {connectionTimeout: 1s, http: {maxStreamDuration: 1s, requestHeadersTimeout: 1s}}}]}"),
			[]string{
				"spec.to[0].default.connectionTimeout: must not be given with a top-level MeshHTTPRoute",
				"spec.to[0].default.http.maxStreamDuration: must not be given with a top-level " +
					"MeshHTTPRoute"}},
		{"rule of a caller", timeoutDoc("{rules: [{matches: [{spiffeID: {type: Exact, value: " +
			"spiffe://d/a}}], " +
			"default: {idleTimeout: 1s, http: {requestTimeout: 1s, requestHeadersTimeout: 1s}}}]}"), []string{
			"spec.rules[0].default.idleTimeout: must not be given in a rule with a spiffeID: it " +
				"cannot depend " +
				"on the caller",
			"spec.rules[0].default.http.requestHeadersTimeout: must not be given in a rule with a " +
				"spiffeID: it " +
				"cannot depend on the caller"}},
		{"matches", timeoutDoc("{rules: [{matches: [{}, {sni: {type: Exact, value: A_b}}, " +
			"{spiffeID: {type: " +
			"Regex, value: ''}}], " + "default: {http: {requestTimeout: 1s}}}]}"), []string{
			"spec.rules[0].matches[0]: needs spiffeID or sni",
			"spec.rules[0].matches[1].sni.value: must be a DNS name",
			"spec.rules[0].matches[2].spiffeID.type: must be one of Exact, Prefix",
			"spec.rules[0].matches[2].spiffeID.value: is required"}},
	} {
		tt.run(t)
	}
}

func TestValidatePermission(t *testing.T) {
	rule := func(conf string) string { return permissionDoc("{rules: [{default: " + conf + "}]}") }
	id := func(kind, value string) string {
		return rule("{allow: [{spiffeID: {type: " + kind + ", value: '" + value + "'}}]}")
	}
	const at = "spec.rules[0].default.allow[0].spiffeID.value: "
	for _, tt := range []refused{
		{"rules", id("Exact", "spiffe://default.east.mesh.local/ns/shop/sa/web"), nil},
		{"prefix of a trust domain", id("Prefix", "spiffe://default"), nil},
		{"prefix with slash (decision 23)", id("Prefix", "spiffe://default/ns/"), nil},
		{"exact with slash", id("Exact", "spiffe://default/ns/"),
			[]string{at + "must not end with a slash nor have an empty or relative path segment"}},
		{"no scheme", id("Exact", "default/ns"), []string{at + "must begin with spiffe://"}},
		{"domain", id("Exact", "spiffe://Default/ns"),

			[]string{at + `must have a trust domain of lower-case letters, digits, ".", "-" and "_" after spiffe://`}},
		{"no domain", id("Prefix", "spiffe://"),
			[]string{at + `must have a trust domain of lower-case letters, digits, ".", "-" and "_" after spiffe://`}},
		{"character", id("Exact", "spiffe://d/a*"),
			[]string{at + "has a character that no SPIFFE ID may have: '*'"}},
		{"from", permissionDoc("{from: [{targetRef: {kind: MeshSubset, tags: {kuma.io/service: " +
			"web}}, default: " +
			"{action: Allow}}]}"), nil},
		{"action", permissionDoc("{from: [{targetRef: {kind: Mesh}, default: {action: ALLOW}}, {targetRef: " +
			"{kind: Mesh}, default: {}}, {targetRef: {kind: Mesh}}]}"), []string{
			"spec.from[0].default.action: must be one of Allow, Deny, AllowWithShadowDeny",
			"spec.from[1].default.action: is required: one of Allow, Deny, AllowWithShadowDeny",
			"spec.from[2].default: is required"}},
		{"from by labels", permissionDoc("{from: [{targetRef: {kind: MeshService, labels: {a: " +
			"b}}, default: " +
			"{action: Deny}}]}"), []string{
			"spec.from[0].targetRef.name: is required: callers are told apart by their tag kuma.io/service"}},
		{"nothing", permissionDoc("{}"), []string{"spec: needs rules or from"}},
		{"both", permissionDoc("{from: [{targetRef: {kind: Mesh}, default: {action: Allow}}], rules: " +
			"[{default: {allow: [{sni: {type: Exact, value: a}}]}}]}"),
			[]string{"spec: must not combine rules and from: make two policies"}},
		{"empty rule", rule("{}"),
			[]string{"spec.rules[0].default: needs at least one of allow, deny and allowWithShadowDeny"}},
		{"no default", permissionDoc("{rules: [{}]}"), []string{"spec.rules[0].default: is required"}},
		{"empty match", rule("{deny: [{}]}"),
			[]string{"spec.rules[0].default.deny[0]: needs spiffeID or sni"}},
		{"gateway", permissionDoc("{targetRef: {kind: MeshGateway, name: a}, rules: [{default: " +
			"{allow: [{sni: " +
			"{type: Exact, value: a}}]}}]}"), []string{
			"spec.targetRef.kind: MeshGateway is not supported here: use one of Mesh, Dataplane, " +
				"MeshSubset, " +
				"MeshService, MeshServiceSubset"}},
		{"section", permissionDoc("{targetRef: {kind: Dataplane, sectionName: http}, rules: " +
			"[{default: {allow: " +
			"[{sni: {type: Exact, value: a}}]}}]}"), nil},
	} {
		tt.run(t)
	}
}

func TestValidateRoute(t *testing.T) {
	match := func(m string) string { return routeDoc("{matches: [" + m + "], default: {}}") }
	filter := func(f string) string {
		return routeDoc("{matches: [{path: {type: PathPrefix, value: /a}}], default: {filters: [" + f + "]}}")
	}
	backend := func(b string) string {
		return routeDoc("{matches: [{}], default: {backendRefs: [" + b + "]}}")
	}
	const m, f, b = "spec.to[0].rules[0].matches[0].", "spec.to[0].rules[0].default.filters[0].", "spec.to[0].rules[0].default.backendRefs[0]."
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
		{"expressions (decision 25)",
			match("{path: {type: RegularExpression, value: '/('}, headers: [{name: a, type: " +
				"RegularExpression, " +
				"value: '(?=x)'}], queryParams: [{name: a, type: RegularExpression, value: '['}]}"), []string{
				m + "path.value: is no regular expression in RE2 syntax: missing closing ): `/(`",
				m + "headers[0].value: is no regular expression in RE2 syntax: invalid or unsupported Perl " +
					"syntax: `(?=`",
				m + "queryParams[0].value: is no regular expression in RE2 syntax: missing closing ]: `[`"}},
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
		{"rewrite without value (decision 3)",
			filter("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /b}}}"),
			[]string{f + "urlRewrite.path.replaceFullPath: is required for type ReplaceFullPath"}},
		{"redirect without value (decision 3)",
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
		{"redirect and mirror (decision 4)",
			filter("{type: RequestMirror, requestMirror: {backendRef: {kind: MeshService, name: " +
				"c}}}, {type: " +
				"RequestRedirect, requestRedirect: {}}"), []string{
				"spec.to[0].rules[0].default.filters[0]: RequestMirror cannot be combined with " +
					"RequestRedirect " +
					"in one rule"}},
		{"host to backend", filter("{type: URLRewrite, urlRewrite: {hostToBackendHostname: true}}"),
			[]string{f + "urlRewrite.hostToBackendHostname: must not be given: only routes of a " +
				"MeshGateway have it"}},
		{"mirror percentage (decision 25)",
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

func TestValidateCore(t *testing.T) {
	mesh := func(s string) string { return "type: Mesh\nname: a\n" + s }
	mtls := func(s string) string { return mesh("mtls: {enabledBackend: ca, backends: [" + s + "]}") }
	dp := func(s string) string {
		return "type: Dataplane\nname: a\nnetworking: {address: 10.0.0.1, " + s + "}"
	}
	in := func(s string) string { return dp("inbound: [" + s + "]") }
	svc := func(s string) string {
		return "type: MeshService\nname: a\nspec: {selector: {dataplaneTags: {a: b}}, ports: [" + s + "]}"
	}
	mz := func(s string) string { return "type: MeshMultiZoneService\nname: a\nspec: " + s }
	hg := func(s string) string { return "type: HostnameGenerator\nname: a\nspec: " + s }
	template := func(s string) string { return hg("{selector: {meshService: {}}, template: '" + s + "'}") }
	for _, tt := range []refused{
		{"mesh", mtls("{name: ca, type: builtin, dpCert: {rotation: {expiration: 1d12h}}}"), nil},
		{"enabled backend", mesh("mtls: {enabledBackend: ca}"),
			[]string{"mtls.enabledBackend: names no backend of mtls.backends"}},
		{"two backends", mtls("{name: ca, type: builtin}, {name: ca, type: builtin}"),
			[]string{"mtls.backends: must have at most one item",
				"mtls.backends[1].name: is given to two backends"}},
		{"backend type", mtls("{name: ca, type: vault}"),
			[]string{"mtls.backends[0].type: must be one of builtin, provided"}},
		{"backend mode", mtls("{name: ca, type: builtin, mode: strict}"),
			[]string{"mtls.backends[0].mode: must be one of STRICT, PERMISSIVE"}},
		{"expiration", mtls("{name: ca, type: builtin, dpCert: {}, conf: {caCert: {expiration: 5x}}}"),
			[]string{
				"mtls.backends[0].dpCert.rotation.expiration: is required if dpCert is given, such as 24h",

				`mtls.backends[0].conf.caCert.expiration: "5x" is no lifetime: use numbers with the units y, w, d, h, m, s or ms`}},
		{"provided", mtls("{name: ca, type: provided, conf: {cert: {secret: a, inlineString: b}}}"), []string{
			"mtls.backends[0].conf.cert: needs exactly one of secret, inline, inlineString and file",
			"mtls.backends[0].conf.key: is required"}},
		{"egress without mtls", mesh("routing: {zoneEgress: true}"),
			[]string{"routing.zoneEgress: needs mtls.enabledBackend"}},
		{"constraints", mesh("constraints: {dataplaneProxy: {requirements: [{tags: {a: '*'}}, {tags: {}}]}}"),
			[]string{"constraints.dataplaneProxy.requirements[1].tags: must have at least one pair"}},
		{"mode", mesh("meshServices: {mode: exclusive}"),
			[]string{"meshServices.mode: must be one of Disabled, Everywhere, ReachableBackends, Exclusive"}},

		{"dataplane", in("{port: 80, servicePort: 8080, name: http, protocol: http, tags: " +
			"{kuma.io/service: web}}"), nil},
		{"no networking", "type: Dataplane\nname: a", []string{"networking: is required"}},
		{"no address", "type: Dataplane\nname: a\nnetworking: {}",
			[]string{"networking.address: is required"}},
		{"any address", "type: Dataplane\nname: a\nnetworking: {address: '::', advertisedAddress: a_b}",
			[]string{
				"networking.address: must be an address that others can dial, not ::",
				"networking.advertisedAddress: must be an IP address or a DNS name"}},
		{"inbound", in("{port: 0, address: host, protocol: udp, state: ready, tags: {a: ''}}"), []string{
			"networking.inbound[0].port: must be a number from 1 to 65535",
			"networking.inbound[0].address: must be an IP address",
			"networking.inbound[0].protocol: must be one of tcp, http, http2, grpc, kafka",
			"networking.inbound[0].state: must be one of Ready, NotReady, Ignored",
			`networking.inbound[0].tags["a"]: must not be empty`,
			`networking.inbound[0].tags["kuma.io/service"]: is required if there are tags`}},
		{"loop", in("{port: 80, serviceAddress: 10.0.0.1}"),
			[]string{"networking.inbound[0].serviceAddress: with servicePort is the inbound's own " +
				"address and " +
				"port: traffic would come back to the proxy"}},
		{"names", dp("inbound: [{port: 80, name: a}, {port: 81, name: a}], listeners: [{type: ZoneIngress, " +
			"port: 82, name: a}, {type: ZoneEgress, port: 82}]"), []string{
			"networking.inbound[1].name: is the name of networking.inbound[0] too",
			"networking.listeners[0].name: is the name of networking.inbound[0] too",
			"networking.listeners[1].port: is listened at twice"}},
		{"outbound", dp("outbound: [{port: 1}, {port: 2, tags: {a: b}}, {port: 3, backendRef: {kind: " +
			"MeshService, name: a}, tags: {kuma.io/service: a}}, {port: 4, backendRef: {kind: MeshService, " +
			"labels: {a: b}, name: c}}, {port: 5, backendRef: {kind: MeshExternalService, name: d}}]"),
			[]string{
				"networking.outbound[0]: needs backendRef or tags",
				`networking.outbound[1].tags["kuma.io/service"]: is required`,
				"networking.outbound[2].tags: cannot be combined with backendRef",
				"networking.outbound[3].backendRef.labels: cannot be combined with name",
				"networking.outbound[3].backendRef.port: is required"}},
		{"gateway", dp("gateway: {tags: {kuma.io/protocol: http}}, inbound: [{port: 80}]"), []string{
			`networking.gateway.tags["kuma.io/service"]: is required`,
			`networking.gateway.tags["kuma.io/protocol"]: must be tcp`,
			"networking.inbound: must not be given for a gateway"}},
		{"admin", dp("admin: {port: 80}, inbound: [{port: 80}]"),
			[]string{"networking.admin.port: is the port of networking.inbound[0] too"}},
		{"reachable", dp("transparentProxying: {reachableBackends: {refs: [{kind: MeshService}, {kind: " +
			"MeshService, name: a, labels: {b: c}}]}}"), []string{
			"networking.transparentProxying.reachableBackends.refs[0]: needs a name or labels",
			"networking.transparentProxying.reachableBackends.refs[1].labels: cannot be combined with name " +
				"or namespace"}},
		{"probe", in("{port: 80, serviceProbe: {interval: 0s, timeout: -1s}}"), []string{
			"networking.inbound[0].serviceProbe.interval: must be longer than 0",
			"networking.inbound[0].serviceProbe.timeout: must be longer than 0"}},

		{"service", svc("{port: 80, targetPort: 8080, appProtocol: http}, {port: 81, name: b, " +
			"targetPort: web}"), nil},
		{"service selectors",
			"type: MeshService\nname: a\nspec: {selector: {dataplaneTags: {a: b}, dataplaneRef: {}}}",
			[]string{
				"spec.selector: must have at most one of dataplaneTags, dataplaneRef and dataplaneLabels",
				"spec.selector.dataplaneRef.name: is required"}},
		{"service ports", svc("{port: 80, targetPort: 0}, {port: 80, name: X, targetPort: ''}, {port: 81, " +
			"name: '80', targetPort: 1, appProtocol: udp}"), []string{
			"spec.ports[0].targetPort: must be a number from 1 to 65535 or the name of an inbound",
			"spec.ports[1].port: is given twice with protocol tcp",
			`spec.ports[1].name: must be lower-case letters, digits and "-", at most 63`,
			"spec.ports[1].targetPort: must be a number from 1 to 65535 or the name of an inbound",
			`spec.ports[2].name: "80" is the name of another port too`,
			"spec.ports[2].appProtocol: must be one of tcp, http, http2, grpc, kafka"}},
		{"multi-zone", mz("{selector: {meshService: {matchLabels: {a: b}}}, ports: [{port: 80}]}"), nil},
		{"multi-zone nothing", mz("{}"),
			[]string{"spec.selector: is required", "spec.ports: must have at least one item"}},
		{"multi-zone empty", mz("{selector: {meshService: {}}, ports: [{port: 80, name: a}, {port: " +
			"80, name: a}]}"), []string{
			"spec.selector.meshService.matchLabels: must have at least one pair",
			"spec.ports[1].port: is given twice", `spec.ports[1].name: "a" is the name of another port too`}},

		{"generator", template(`{{ .DisplayName }}.{{ .Namespace }}.svc.{{ label "a/b" }}.{{ .Zone }}.mesh.local`), nil},
		{"generator without selector", hg("{template: a}"),
			[]string{"spec.selector: needs exactly one of meshService, meshExternalService and " +
				"meshMultiZoneService"}},
		{"generator with two", hg("{template: a, selector: {meshService: {}, meshMultiZoneService: {}}}"),
			[]string{"spec.selector: needs exactly one of meshService, meshExternalService and " +
				"meshMultiZoneService"}},
		{"no template", hg("{selector: {meshService: {}}}"), []string{"spec.template: is required"}},
		{"not a template", template("{{ .Name "),
			[]string{"spec.template: not a template: hostname:1: unclosed action"}},
		{"no host", template("{{ .Name }}_a"),
			[]string{`spec.template: gives "name_a", which is no DNS name`}},
		{"unknown value", template("{{ .Cluster }}"),

			[]string{`spec.template: cannot be rendered: hostname:1:3: executing "hostname" at <.Cluster>: can't evaluate field Cluster in type mesh.HostnameInput`}},
		{"zone", "type: Zone\nname: a\nenabled: false", nil},
		{"ingress", "type: ZoneIngress\nname: a\nnetworking: {address: 0.0.0.0, port: 10001, " +
			"advertisedAddress: in.example.com, advertisedPort: 10001}", nil},
		{"ingress half", "type: ZoneIngress\nname: a\nnetworking: {port: 10001, advertisedAddress: 0.0.0.0}",
			[]string{
				"networking.advertisedAddress: must be an address that others can dial, not 0.0.0.0",
				"networking.advertisedPort: is required with advertisedAddress"}},
	} {
		tt.run(t)
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string][]string{
		timeoutDoc("{targetRef: {kind: MeshSubset}, from: [{targetRef: {kind: Mesh}, " + anyTimeout +
			"}]}"): {
			"spec.targetRef.kind: MeshSubset is deprecated here: use Dataplane with labels",
			"spec.from: is deprecated: use rules"},
		timeoutDoc("{to: [{targetRef: {kind: MeshHTTPRoute, name: a}, default: " +
			"{connectionTimeout: 1s, http: " +
			"{requestTimeout: 1s}}}]}"): {
			"spec.to[0].default.connectionTimeout: has no effect on a route"},
		"type: MeshService\nname: a\nspec: {ports: [{port: 1}]}": {
			"spec.selector: is empty: the service has no instances",
			"spec.ports[0].targetPort: is not given: the port has no instances"},
		timeoutDoc("{rules: [{" + anyTimeout + "}]}"): nil,
	} {
		got, err := Validate(decodeOne(t, text).Resource)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", text, diff)
		}
	}
}

// Validate must not need what Decode makes sure of: resources come from peers, too.
func TestValidateForeign(t *testing.T) {
	for _, r := range []*Resource{
		{}, {Key: Key{Kind: KindMesh}}, {Key: Key{Kind: "Nothing", Name: "a"}},
		{
			Key:  Key{Kind: KindMeshHTTPRoute, Mesh: "m", Name: "a"},
			Spec: &meshv1.MeshHTTPRoute{To: []*meshv1.MeshHTTPRoute_To{nil}},
		},
		{
			Key:  Key{Kind: KindMeshTimeout, Mesh: "m", Name: "a"},
			Spec: &meshv1.MeshTimeout{Rules: []*meshv1.MeshTimeout_Rule{{Matches: []*meshv1.Match{nil}}}},
		},
		{Key: Key{Kind: KindMeshService, Mesh: "m", Namespace: "A", Name: "a"}, Spec: &meshv1.MeshService{}},
	} {
		if _, err := Validate(r); err == nil {
			t.Errorf("%v accepted", r)
		}
	}
}

func TestExpiration(t *testing.T) {
	day := 24 * time.Hour
	for in, want := range map[string]time.Duration{"": 0, "0": 0, "24h": day, "10y": 3650 * day,
		"1d12h": 36 * time.Hour, "5ms": 5 * time.Millisecond, "2w1m": 14*day + time.Minute} {
		if got, err := ParseExpiration(in); err != nil || got != want {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"5", "h", "1h ", "-1h", "400y", "99999999999999999999s", "1.5h"} {
		if got, err := ParseExpiration(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

func TestRenderHostname(t *testing.T) {
	in := HostnameInput{Name: "a", DisplayName: "b", Zone: "east", Labels: map[string]string{"app": "web"}}
	if got, err := RenderHostname(`{{ label "app" }}.{{ .DisplayName }}.{{ .Zone }}.mesh`, in); err != nil ||
		got != "web.b.east.mesh" {
		t.Errorf("%q %v", got, err)
	}
	for text, want := range map[string]string{
		`{{ label "team" }}`: `the resource has no label "team"`, `{{ .Namespace }}.a`: "no DNS name",
		`{{ printf "%99999999d" 1 }}`:       "there is no function printf",
		strings.Repeat("{{ .Name }}", 2000): "gives too much text",
	} {
		if _, err := RenderHostname(text, in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"requestTimeout", "streamIdleTimeout", "to", "from", "rules"}
	for in, want := range map[string]string{"reqestTimeout": "requestTimeout",
		"request_timeout": "requestTimeout", "ruels": "rules",
		"form": "from", "ot": "to", "completelyElse": "", "x": "", strings.Repeat("a", 100): ""} {
		if got := nearest(in, known); got != want {
			t.Errorf("%q is nearest to %q, want %q", in, got, want)
		}
	}
}
