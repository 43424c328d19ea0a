package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateHealthCheck(t *testing.T) {
	t.Parallel()

	to := func(s string) string {
		return policyDoc(mesh.KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	d := "spec.to[0].default"
	for _, tt := range []refused{
		{"all", to("interval: 1s, timeout: 1s, unhealthyThreshold: 1, healthyThreshold: 1, " +
			"initialJitter: 1s, " +
			"intervalJitter: 1s, intervalJitterPercent: 0, healthyPanicThreshold: '0.5', " +
			"failTrafficOnPanic: " +
			"true, eventLogPath: /dev/stdout, alwaysLogHealthCheckFailures: false, noTrafficInterval: 1s, " +
			"reuseConnection: false, " +
			"http: {disabled: false, path: /a, expectedStatuses: [100, 599], requestHeadersToAdd: {set: " +
			"[{name: a, value: b}], add: [{name: c, value: d}]}}, tcp: {disabled: true, send: " +
			"Zm9v, receive: " +
			"[YmFy]}, grpc: {serviceName: a, authority: b}"), nil},
		{"nothing", to("interval: 1s"), []string{d + ": needs at least one of http, tcp and grpc"}},
		{"no default", policyDoc(mesh.KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}}]"),
			[]string{d + ": needs at least one of http, tcp and grpc"}},
		{"zero", to("tcp: {}, interval: 0s, timeout: -1s, unhealthyThreshold: 0, healthyThreshold: 0, " +
			"initialJitter: 0s, intervalJitter: 0s, intervalJitterPercent: 101, " +
			"healthyPanicThreshold: 101, " +
			"eventLogPath: a, noTrafficInterval: 0s"), []string{
			d + ".interval: must be longer than 0", d + ".timeout: must be longer than 0",
			d + ".unhealthyThreshold: must be greater than 0",
			d + ".healthyThreshold: must be greater than 0",
			d + ".initialJitter: must be longer than 0", d + ".intervalJitter: must be longer than 0",
			d + ".intervalJitterPercent: must be at most 100",
			d + ".healthyPanicThreshold: must be from 0 to 100",
			d + ".eventLogPath: must be a file below /dev, such as /dev/stdout: a proxy " +
				"that cannot open it refuses the whole destination",
			d + ".noTrafficInterval: must be longer than 0"}},

		{"http", to(`http: {path: '', expectedStatuses: [200, 99, 600], requestHeadersToAdd: {add: ` +
			`[{name: A b}]}}, grpc: {authority: "a\r"}`), []string{
			d + ".http.path: is required", d + ".http.expectedStatuses[1]: must be a number from 100 to 599",
			d + ".http.expectedStatuses[2]: must be a number from 100 to 599",
			d + ".http.requestHeadersToAdd.add[0].name: must be a header name in lower case",
			d + ".grpc.authority: must not contain line ends or other control characters"}},
		{"path", to(`http: {path: "/a\nb"}`),
			[]string{d + ".http.path: must not contain control characters"}},
		{"no bytes", to("tcp: {send: '', receive: ['']}"),
			[]string{d + ".tcp.send: must not be empty", d + ".tcp.receive[0]: must not be empty"}},
	} {
		tt.run(t)
	}
}
