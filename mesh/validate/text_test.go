package validate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestExpressions: Go's expressions are a little more than RE2's, and RE2 has an end.
func TestExpressions(t *testing.T) {
	t.Parallel()

	for expr, reason := range map[string]string{
		`/v[0-9]+/.*`:                "",
		`\pL+\p{Lu}\p{^Greek}\PN`:    "",
		`\p{Any}`:                    "",
		`\\p{Letter}`:                "",
		`\Q\p{Letter}\E`:             "",
		strings.Repeat("a", 1024):    "",
		`/\p{Letter}+`:               `\p{Letter}: use a general category`,
		`\P{^Letter}`:                `\p{Letter}: use a general category`,
		`\Qa\E\p{ASCII}`:             `\p{ASCII}`,
		`\p{LC}`:                     `\p{LC}`,
		`\p{Garay}`:                  `\p{Garay}`,
		`(`:                          "missing closing )",
		`a{1001}`:                    "invalid repeat count",
		strings.Repeat("a", 1025):    "must have at most 1024 bytes",
		strings.Repeat(".{200}", 99): "is too large for a proxy",
	} {
		t.Run(expr[:min(len(expr), 20)], func(t *testing.T) {
			t.Parallel()
			c := &check{seen: map[string]bool{}}
			c.expression("f", expr)
			switch err := c.err.Err(); {
			case reason == "" && err != nil:
				t.Errorf("%v", err)
			case reason != "" && (err == nil || !strings.Contains(err.Error(), reason)):
				t.Errorf("%v, want %q", err, reason)
			}
		})
	}
}

// route is a MeshHTTPRoute with one rule, with matches and filters as written.
func route(matches, filters string) string {
	return policyDoc(
		mesh.KindMeshHTTPRoute,
		"to: [{targetRef: {kind: MeshService, name: a}, rules: [{matches: ["+
			matches+"], default: {filters: ["+filters+"]}}]}]",
	)
}

// TestPathsAreWhatIsOnTheWire: Envoy compares and writes bytes of the request line.
func TestPathsAreWhatIsOnTheWire(t *testing.T) {
	t.Parallel()

	const prefix = "{path: {type: PathPrefix, value: /a}}"
	for _, field := range []struct{ path, doc string }{
		{"spec.to[0].rules[0].matches[0].path.value", route("{path: {type: Exact, value: %s}}", "")},
		{"spec.to[0].rules[0].matches[0].path.value", route("{path: {type: PathPrefix, value: %s}}", "")},
		{"spec.to[0].rules[0].default.filters[0].urlRewrite.path.replacePrefixMatch",
			route(prefix, "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, "+
				"replacePrefixMatch: %s}}}")},
		{"spec.to[0].rules[0].default.filters[0].urlRewrite.path.replaceFullPath",
			route(prefix, "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, "+
				"replaceFullPath: %s}}}")},
		{"spec.to[0].rules[0].default.filters[0].requestRedirect.path.replaceFullPath",
			route(prefix, "{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, "+
				"replaceFullPath: %s}}}")},
		{"spec.to[0].default.http.path", policyDoc(mesh.KindMeshHealthCheck,
			"to: [{targetRef: {kind: Mesh}, default: {http: {path: %s}}}]")},
	} {
		last := field.path[strings.LastIndexByte(field.path, '.')+1:]
		query := "must be a path alone, without ? and #: " + last + " never holds one"
		cases := []struct{ value, reason string }{
			{"/v1/a%20b~!$&'()*+,;=:@", ""},
			{"api", "must begin with a slash"},
			{"/b c", "must be percent-encoded, as it is on the wire: /b%20c"},
			{"/ü", "must be percent-encoded, as it is on the wire: /%C3%BC"},
			{"/b\\r\\nx: y", "must not contain control characters"},
			{"/x%zz", "has a % that two hexadecimal digits must follow; a percent sign itself is %25"},
			{"/x%", "has a % that two hexadecimal digits must follow; a percent sign itself is %25"},
			{"/x#y", query},
		}
		if last != "path" { // a health check may have a query
			cases = append(cases, struct{ value, reason string }{"/x?y=", query})
		}
		for _, tc := range cases {
			want := []string(nil)
			if tc.reason != "" {
				if strings.HasPrefix(last, "replace") && tc.value == "api" {
					tc.reason += ", or be empty for /"
				}
				want = []string{field.path + ": " + tc.reason}
			}
			refused{
				last + tc.value,
				strings.ReplaceAll(field.doc, "%s", fmt.Sprintf("%q", "X")),
				want,
			}.with(
				t,
				tc.value,
			)
		}
	}
}

// with puts a value in the place of X.
func (tt refused) with(t *testing.T, value string) {
	tt.text = strings.ReplaceAll(tt.text, `"X"`, `"`+value+`"`)
	tt.run(t)
}

// TestMatchesThatCannotHold.
func TestMatchesThatCannotHold(t *testing.T) {
	t.Parallel()

	const m = "spec.to[0].rules[0].matches[0]"
	for _, tt := range []refused{
		{"dots", route("{path: {type: PathPrefix, value: /x/../y}}", ""),
			[]string{m + ".path.value: can never match: . and .. are resolved before a path is compared"}},
		{"encoded dots", route("{path: {type: Exact, value: /x/%2E%2e}}", ""),
			[]string{m + ".path.value: can never match: . and .. are resolved before a path is compared"}},
		{"dots in a name", route("{path: {type: Exact, value: /x/..y/.well-known/a.b}}", ""), nil},
		{"slashes", route("{path: {type: Exact, value: /x//y}}", ""), nil},
		{"query", route("{queryParams: [{type: Exact, name: a, value: x y}]}", ""),
			[]string{m + ".queryParams[0].value: must be percent-encoded, as it is on the wire: x+y"}},
		{"query name", route("{queryParams: [{type: Exact, name: a&b, value: x}]}", ""),
			[]string{m + ".queryParams[0].name: must be percent-encoded, as it is on the wire: a%26b"}},
		{"one header, two values", route("{headers: [{name: a, value: '1'}, {name: a, value: '2'}]}", ""),
			[]string{m + ".headers[1]: can never hold together with headers[0]"}},
		{"absent and exact", route("{headers: [{name: a, type: Absent}, {name: a, value: '2'}]}", ""),
			[]string{m + ".headers[1]: can never hold together with headers[0]"}},
		{"prefix and another",
			route("{headers: [{name: a, value: b}, {name: a, type: Prefix, value: c}]}", ""),
			[]string{m + ".headers[1]: can never hold together with headers[0]"}},
		{"prefix and regex", route("{headers: [{name: a, type: Prefix, value: b}, {name: a, type: "+
			"RegularExpression, "+
			"value: '.*c'}]}", ""), nil},
	} {
		tt.run(t)
	}
}

// TestOwnHeadersAreWarnedOf.
func TestOwnHeadersAreWarnedOf(t *testing.T) {
	t.Parallel()

	for _, name := range []string{"x-request-id", "x-forwarded-proto", "x-envoy-attempt-count"} {
		doc := route("{headers: [{name: "+name+", type: Absent}]}", "")
		warnings, err := Resource(decodeOne(t, doc).Resource)
		want := "spec.to[0].rules[0].matches[0].headers[0]: " + name +
			" is written by Envoy before it looks for a " +
			"route: what the caller sent does not count"
		if err != nil || len(warnings) != 1 || warnings[0] != want {
			t.Errorf("%s: %q, %v", name, warnings, err)
		}
	}
}

// TestHeadersOfConnections: a policy changes no header that is about one connection or the body's length.
func TestHeadersOfConnections(t *testing.T) {
	t.Parallel()

	for _, name := range connectionHeaders {
		reason := ": must not be " + name +
			": it is about one connection or about the length of the body, which " +
			"Envoy sees to"
		for body, field := range map[string]string{
			"set: [{name: " + name + ", value: x}]": "set[0].name",
			"add: [{name: " + name + ", value: x}]": "add[0].name",
			"remove: [" + name + "]":                "remove[0]",
		} {
			for _, f := range []struct{ typ, part string }{
				{"RequestHeaderModifier", "requestHeaderModifier"},
				{"ResponseHeaderModifier", "responseHeaderModifier"},
			} {
				refused{
					name + " " + field + f.typ,
					route(
						"{path: {type: PathPrefix, value: /}}",
						"{type: "+f.typ+", "+f.part+": {"+body+"}}",
					),
					[]string{"spec.to[0].rules[0].default.filters[0]." + f.part + "." + field + reason},
				}.run(t)
			}
		}
	}
}

// TestHeaderValuesAreBounded: Envoy takes 16 kB, and needs two bytes for a percent sign.
func TestHeaderValuesAreBounded(t *testing.T) {
	t.Parallel()

	set := func(value string) string {
		return route("{path: {type: PathPrefix, value: /}}",
			"{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: '"+value+"'}]}}")
	}
	const at = "spec.to[0].rules[0].default.filters[0].requestHeaderModifier.set[0].value"
	long := []string{at + ": must have at most 8192 bytes, where % counts twice"}
	refused{"longest", set(strings.Repeat("a", 8192)), nil}.run(t)
	refused{"too long", set(strings.Repeat("a", 8193)), long}.run(t)
	refused{"escaped", set(strings.Repeat("%", 4097)), long}.run(t)
}

// TestShortDurations: Envoy counts in milliseconds; less than one would be none at all.
func TestShortDurations(t *testing.T) {
	t.Parallel()

	const short = ": must be at least 1ms: Envoy counts in milliseconds"
	to := func(kind mesh.Kind, conf string) string {
		return policyDoc(kind, "to: [{targetRef: {kind: Mesh}, default: {"+conf+"}}]")
	}
	for _, tt := range []refused{
		{"1ns", to(mesh.KindMeshTimeout, "http: {requestTimeout: 1ns}"),
			[]string{"spec.to[0].default.http.requestTimeout" + short}},
		{"500us", to(mesh.KindMeshTimeout, "http: {streamIdleTimeout: 500us}"),
			[]string{"spec.to[0].default.http.streamIdleTimeout" + short}},
		{"off", to(mesh.KindMeshTimeout, "http: {requestTimeout: 0s, streamIdleTimeout: 1ms}"), nil},
		{"delay", policyDoc(mesh.KindMeshFaultInjection, "targetRef: {kind: Dataplane}, "+
			"rules: [{default: {http: [{delay: {value: 500us, percentage: 1}}]}}]"),
			[]string{"spec.rules[0].default.http[0].delay.value" + short}},
		{"checks", to(mesh.KindMeshHealthCheck, "tcp: {}, interval: 1ms, noTrafficInterval: 99ms"),
			[]string{"spec.to[0].default.interval: must be at least 100ms",
				"spec.to[0].default.noTrafficInterval: must be at least 100ms"}},
		{"sweeps", to(mesh.KindMeshCircuitBreaker, "outlierDetection: {disabled: true, interval: 10ms}"),
			[]string{"spec.to[0].default.outlierDetection.interval: must be at least 100ms"}},
	} {
		tt.run(t)
	}
}

// TestNumbersThatCostEachRequest: Envoy reserves memory for each retry of each request, and draws as often
// as a policy says.
func TestNumbersThatCostEachRequest(t *testing.T) {
	t.Parallel()

	const most = "4294967295"
	d := "spec.to[0].default."
	for _, tt := range []refused{
		{"retries", policyDoc(mesh.KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: "+most+
				", hostSelectionMaxAttempts: "+most+", hostSelection: [{predicate: OmitPreviousPriorities, "+
				"updateFrequency: "+most+"}]}, grpc: {numRetries: "+most+"}, tcp: {maxConnectAttempt: "+most+
				"}}}]"),
			[]string{d + "http.numRetries: must be at most 100", d + "grpc.numRetries: must be at most 100",
				d + "http.hostSelectionMaxAttempts: must be at most 1000",
				d + "http.hostSelection[0].updateFrequency: must be a number from 1 to 100",
				d + "tcp.maxConnectAttempt: must be a number from 1 to 100"}},
		{"choices", policyDoc(mesh.KindMeshLoadBalancingStrategy, "to: [{targetRef: {kind: Mesh}, default: "+
			"{loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: "+most+"}}}}]"),
			[]string{d + "loadBalancer.leastRequest.choiceCount: must be a number from 2 to 100"}},
	} {
		tt.run(t)
	}
}

// TestHashedNames.
func TestHashedNames(t *testing.T) {
	t.Parallel()

	h := "spec.to[0].default.hashPolicies"
	refused{"names", policyDoc(mesh.KindMeshLoadBalancingStrategy, "to: [{targetRef: {kind: Mesh}, default: "+
		"{loadBalancer: {type: RingHash}, hashPolicies: [{type: Header, header: {name: 'bad name:'}}, "+
		"{type: Cookie, cookie: {name: 'a;b=c'}}, {type: QueryParameter, queryParameter: {name: 'a&b'}}, "+
		"{type: Header, header: {name: X-User}}]}}]"), []string{
		h + "[0].header.name: must be a header name in lower case",
		h + "[1].cookie.name: must be the name of a cookie: letters, digits and !#$%&'*+-.^_`|~",
		h + "[2].queryParameter.name: must be percent-encoded, as it is on the wire: a%26b",
	}}.run(t)
}
