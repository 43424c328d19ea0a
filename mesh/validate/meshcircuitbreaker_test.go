package validate

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateCircuitBreaker(t *testing.T) {
	t.Parallel()

	rule := func(s string) string {
		return policyDoc(mesh.KindMeshCircuitBreaker, "rules: [{default: {"+s+"}}]")
	}
	outlier := func(s string) string { return rule("outlierDetection: {" + s + "}") }
	d, o := "spec.rules[0].default", "spec.rules[0].default.outlierDetection"
	five := o + ".detectors: needs at least one of totalFailures, gatewayFailures, localOriginFailures, " +
		"successRate and failurePercentage"
	for _, tt := range []refused{
		{"all", rule("connectionLimits: {maxConnections: 1, maxConnectionPools: 1, maxPendingRequests: 1, " +
			"maxRetries: 1, maxRequests: 1}, outlierDetection: {disabled: false, interval: 1s, " +
			"baseEjectionTime: 1s, maxEjectionPercent: 0, splitExternalAndLocalErrors: true, " +
			"healthyPanicThreshold: 0, detectors: {totalFailures: {consecutive: 1}, gatewayFailures: {}, " +
			"localOriginFailures: {consecutive: 1}, " +
			"successRate: {minimumHosts: 1, requestVolume: 1, standardDeviationFactor: '1.9'}, " +
			"failurePercentage: {minimumHosts: 1, requestVolume: 1, threshold: 0}}}"), nil},
		{"nothing", rule(""), []string{d + ": needs at least one of connectionLimits and outlierDetection"}},
		{"no default", policyDoc(mesh.KindMeshCircuitBreaker, "from: [{targetRef: {kind: Mesh}}]"),
			[]string{"spec.from[0].default: needs at least one of connectionLimits and outlierDetection"}},
		{"no limits", rule("connectionLimits: {}"), nil},
		{"zero limits", rule("connectionLimits: {maxConnections: 0, maxConnectionPools: 0, " +
			"maxPendingRequests: " +
			"0, maxRetries: 0, maxRequests: 0}"), []string{
			d + ".connectionLimits.maxConnections: must be greater than 0",
			d + ".connectionLimits.maxConnectionPools: must be greater than 0",
			d + ".connectionLimits.maxPendingRequests: must be greater than 0",
			d + ".connectionLimits.maxRetries: must be greater than 0",
			d + ".connectionLimits.maxRequests: must be greater than 0"}},
		{"disabled without detectors", outlier("disabled: true"), nil},
		{"no detectors", outlier("interval: 1s"),
			[]string{o + ".detectors: is required, unless outlierDetection is disabled"}},
		{"not disabled", outlier("disabled: false"),
			[]string{o + ".detectors: is required, unless outlierDetection is disabled"}},
		{"empty detectors", outlier("detectors: {}"), []string{five}},
		{"ranges", outlier("interval: 0s, baseEjectionTime: 0s, maxEjectionPercent: 101, " +
			"healthyPanicThreshold: '100.5', detectors: {totalFailures: {consecutive: 0}, gatewayFailures: " +
			"{consecutive: 0}, localOriginFailures: {consecutive: 0}, successRate: {minimumHosts: 0, " +
			"requestVolume: 0, standardDeviationFactor: 0}, failurePercentage: {minimumHosts: 0, " +
			"requestVolume: 0, threshold: 101}}"), []string{
			o + ".interval: must be longer than 0", o + ".baseEjectionTime: must be longer than 0",
			o + ".maxEjectionPercent: must be at most 100",
			o + ".healthyPanicThreshold: must be from 0 to 100",
			o + ".detectors.totalFailures.consecutive: must be greater than 0",
			o + ".detectors.gatewayFailures.consecutive: must be greater than 0",
			o + ".detectors.localOriginFailures.consecutive: must be greater than 0",
			o + ".detectors.successRate.minimumHosts: must be greater than 0",
			o + ".detectors.successRate.requestVolume: must be greater than 0",
			o + ".detectors.successRate.standardDeviationFactor: must be above 0 and at most 1000000",
			o + ".detectors.failurePercentage.minimumHosts: must be greater than 0",
			o + ".detectors.failurePercentage.requestVolume: must be greater than 0",
			o + ".detectors.failurePercentage.threshold: must be at most 100"}},
		{"to", policyDoc(mesh.KindMeshCircuitBreaker,
			"to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {detectors: {}}}}]"),
			[]string{strings.Replace(five, "rules", "to", 1)}},
	} {
		tt.run(t)
	}
}
