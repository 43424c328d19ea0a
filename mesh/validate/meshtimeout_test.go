package validate

import "testing"

func timeoutDoc(spec string) string { return "type: MeshTimeout\nname: a\nspec: " + spec }

const anyTimeout = "default: {idleTimeout: 1s}"

func TestValidateTimeout(t *testing.T) {
	t.Parallel()

	to := func(conf string) string {
		return timeoutDoc("{to: [{targetRef: {kind: Mesh}, default: " + conf + "}]}")
	}
	for _, tt := range []refused{
		{"all", to("{connectionTimeout: 1s, idleTimeout: 0s, http: {requestTimeout: 0s, " +
			"streamIdleTimeout: 1s, " +
			"maxStreamDuration: 0s, maxConnectionDuration: 0s, requestHeadersTimeout: 0s}}"), nil},
		{"headers alone", to("{http: {requestHeadersTimeout: 1s}}"), nil},
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
