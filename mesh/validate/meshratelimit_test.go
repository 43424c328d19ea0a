package validate

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateRateLimit(t *testing.T) {
	t.Parallel()

	rule := func(match, local string) string {
		return policyDoc(mesh.KindMeshRateLimit,
			"targetRef: {kind: Dataplane}, rules: [{matches: ["+match+"], default: {local: {"+local+"}}}]")
	}
	limit := func(s string) string { return rule("", s) }
	rate := func(s string) string { return limit("http: {requestRate: {" + s + "}}") }
	l := "spec.rules[0].default.local"
	id := "{spiffeID: {type: Exact, value: spiffe://d/a}}"
	for _, tt := range []refused{
		{"all", limit("http: {disabled: false, requestRate: {num: 5, interval: 51ms}, " +
			"onRateLimit: {status: " +
			"423, headers: {set: [{name: a, value: 'b,c'}], add: [{name: a, value: d}]}}}, tcp: " +
			"{connectionRate: {num: 1, interval: 1s}}"), nil},
		{"by caller", rule(id+", {sni: {type: Exact, value: a.b}}", "http: {disabled: true}"), nil},
		{"no default", policyDoc(mesh.KindMeshRateLimit, "targetRef: {kind: Dataplane}, rules: [{}]"),
			[]string{"spec.rules[0].default: is required"}},
		{"no local", policyDoc(mesh.KindMeshRateLimit,
			"targetRef: {kind: Dataplane}, rules: [{default: {}}]"),
			[]string{l + ": is required"}},
		{"neither", limit(""), []string{l + ": needs at least one of http and tcp"}},
		{"empty parts", limit("http: {}, tcp: {}"),
			[]string{l + ".http: needs at least one of disabled, requestRate and onRateLimit",
				l + ".tcp: needs at least one of disabled and connectionRate"}},
		{"empty rate", rate(""),
			[]string{l + ".http.requestRate.num: is required",
				l + ".http.requestRate.interval: is required"}},
		{"zero", rate("num: 0, interval: 50ms"),
			[]string{l + ".http.requestRate.num: must be greater than 0",
				l + ".http.requestRate.interval: must be longer than 50ms"}},
		{"tcp rate", limit("tcp: {connectionRate: {num: 0, interval: -1s}}"),
			[]string{l + ".tcp.connectionRate.num: must be greater than 0",
				l + ".tcp.connectionRate.interval: must be longer than 50ms"}},
		{"status", limit("http: {onRateLimit: {status: 0, headers: {set: [{name: A, value: b}], " +
			"add: [{name: " +
			"'', value: \"a\\nb\"}]}}}"), []string{
			l + ".http.onRateLimit.status: must be greater than 0",
			l + ".http.onRateLimit.headers.set[0].name: must be a header name in lower case",
			l + ".http.onRateLimit.headers.add[0].name: is required",
			l + ".http.onRateLimit.headers.add[0].value: must not contain line ends or other " +
				"control characters"}},
		{"status above", limit("http: {onRateLimit: {status: 600}}"),
			[]string{l + ".http.onRateLimit.status: must be an error that Envoy can answer with, " +
				"such as 403, " +
				"429 or 503: it would answer 429 for 600"}},
		{"headers", limit("http: {onRateLimit: {headers: {set: [" +
			strings.Repeat("{name: a, value: b}, ", 17) + "]}}}"),
			[]string{l + ".http.onRateLimit.headers: must have at most 10 headers in set and add " +
				"together, has 17",
				l + ".http.onRateLimit.headers.set: must have at most 16 items"}},
		{"tcp by caller", rule(id, "tcp: {disabled: true}"),
			[]string{l + ".tcp: must not be given in a rule with a spiffeID: it cannot depend " +
				"on the caller"}},
		{"tcp by sni", rule("{sni: {type: Exact, value: a.b}}", "tcp: {disabled: true}"), nil},
		{"empty match", rule("{}", "http: {disabled: true}"),
			[]string{"spec.rules[0].matches[0]: needs spiffeID or sni"}},
		{"matches", rule("{spiffeID: {type: Prefix, value: spiffe://d/ns/}}, {spiffeID: {type: "+
			"Exact, value: "+
			"spiffe://d/ns/}}, {spiffeID: {type: Regex, value: http://a}}, {sni: {type: Prefix, "+
			"value: a b}}, "+
			"{spiffeID: {}}", "http: {disabled: true}"), []string{
			"spec.rules[0].matches[1].spiffeID.value: must not end with a slash nor have an empty " +
				"or relative " +
				"path segment", "spec.rules[0].matches[2].spiffeID.type: must be one of Exact, Prefix",
			"spec.rules[0].matches[2].spiffeID.value: must begin with spiffe://",
			"spec.rules[0].matches[3].sni.type: must be one of Exact",
			"spec.rules[0].matches[3].sni.value: must be a DNS name",
			"spec.rules[0].matches[4].spiffeID.type: is required: one of Exact, Prefix",
			"spec.rules[0].matches[4].spiffeID.value: is required"}},
		{"to", policyDoc(mesh.KindMeshRateLimit,
			"to: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 0, "+
				"interval: 1s}}}}}]"),
			[]string{"spec.to[0].default.local.http.requestRate.num: must be greater than 0"}},
		{"from", policyDoc(mesh.KindMeshRateLimit,
			"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 0, "+
				"interval: 1s}}}}}]"),
			[]string{"spec.from[0].default.local.http.requestRate.num: must be greater than 0"}},
	} {
		tt.run(t)
	}
}
