package traffic

import (
	"fmt"
	"slices"
	"strings"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

var breakerTests = []test{
	{"DetectorTotalFailures", detector(`totalFailures: {consecutive: 3}`, 500)},
	{"DetectorGatewayFailures", detector(`gatewayFailures: {consecutive: 3}`, 503)},
	{"DetectorSuccessRate", detector(`successRate: {minimumHosts: 3, requestVolume: 5, standardDeviationFactor: "1.0"}`, 500)},
	{"DetectorFailurePercentage", detector(`failurePercentage: {minimumHosts: 3, requestVolume: 5, threshold: 80}`, 500)},
	{"EjectsOneOfTwo", ejectsOneOfTwo},
	{"RetryLimit", retryLimit},
	{"HealthCheckHTTP", healthCheckHTTP},
	{"HealthCheckGRPC", healthCheckGRPC},
}

// breaker is outlier detection by one detector, quick to eject and to let back.
func breaker(detector string) string {
	return to("MeshCircuitBreaker", "breaker", fmt.Sprintf("{outlierDetection: {interval: 200ms, baseEjectionTime: 500ms, maxEjectionPercent: 50, splitExternalAndLocalErrors: true, detectors: {%s}}}", detector))
}

// detector: an instance that answers with the status is left out, and comes back when it has mended.
func detector(conf string, status int) func(*world) {
	return func(w *world) {
		w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
		w.policy(breaker(conf))
		bad := w.apps["v1-a"]
		bad.behave(w.t, fails(status))
		w.eventually("the bad instance is left out", func() error {
			if got := w.spread(40, "/"); got[fmt.Sprint(status)] > 0 || got["v1-b"] == 0 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
		bad.set(nil)
		w.eventually("it is let back", func() error {
			if got := w.spread(40, "/"); got["v1-a"] == 0 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
}

// ejectsOneOfTwo: with two instances and the default percentage, which rounds down to none, one is left out all the same.
func ejectsOneOfTwo(w *world) {
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	w.policy(route("to-v1", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]"))
	w.policy(strings.Replace(to("MeshCircuitBreaker", "two", "{outlierDetection: {interval: 200ms, baseEjectionTime: 500ms, maxEjectionPercent: 10, detectors: {totalFailures: {consecutive: 3}}}}"),
		"name: backend}", "name: backend-v1}", 1))
	w.apps["v1-a"].behave(w.t, fails(500))
	w.eventually("one of two is left out", func() error {
		if got := w.spread(20, "/"); got["v1-b"] != 20 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// retryLimit: more retries at once than allowed are not made.
func retryLimit(w *world) {
	w.policy(to("MeshRetry", "retry", `{http: {numRetries: 1, retryOn: ["5xx"], backOff: {baseInterval: 200ms, maxInterval: 400ms}}}`))
	w.policy(to("MeshCircuitBreaker", "limits", "{connectionLimits: {maxRetries: 1}}"))
	tries := w.flaky(1<<40, 500)
	w.burst(20, w.outbound(outHTTP)+"/")
	if n := tries.Load(); n < 20 || n > 30 {
		w.t.Errorf("20 requests made %d tries, want hardly more than 20", n)
	}
}

func healthCheck(conf string) string {
	return to("MeshHealthCheck", "check", "{interval: 100ms, timeout: 300ms, unhealthyThreshold: 2, healthyThreshold: 1, failTrafficOnPanic: true, healthyPanicThreshold: 0, "+conf+"}")
}

func healthCheckHTTP(w *world) {
	w.policy(healthCheck("http: {path: /health, expectedStatuses: [200]}"))
	sick := w.apps["v1-a"]
	w.eventually("the program is asked", func() error {
		if sick.checks.Load() == 0 {
			return fmt.Errorf("not once")
		}
		return nil
	})
	sick.healthy.Store(false)
	w.t.Cleanup(func() { sick.healthy.Store(true) })
	w.eventually("the sick instance is left out", func() error {
		if got := w.spread(40, "/"); got["v1-a"] > 0 || got["v1-b"] == 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	sick.healthy.Store(true)
	w.eventually("it is let back", func() error {
		if got := w.spread(40, "/"); got["v1-a"] == 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func healthCheckGRPC(w *world) {
	w.policy(strings.Replace(healthCheck("grpc: {serviceName: shop}"), "name: backend}", "name: backend, sectionName: grpc}", 1))
	for _, a := range w.apps {
		a.health.SetServingStatus("shop", healthv1.HealthCheckResponse_SERVING)
	}
	sick := w.apps["v1-a"]
	sick.health.SetServingStatus("shop", healthv1.HealthCheckResponse_NOT_SERVING)
	w.eventually("the sick instance is left out", func() error {
		got, err := w.grpcSpread(20)
		if err != nil || slices.Contains(got, w.address(instances["v1-a"])) {
			return fmt.Errorf("%v, %v", got, err)
		}
		return nil
	})
	sick.health.SetServingStatus("shop", healthv1.HealthCheckResponse_SERVING)
	w.eventually("it is let back", func() error {
		got, err := w.grpcSpread(20)
		if err != nil || !slices.Contains(got, w.address(instances["v1-a"])) {
			return fmt.Errorf("%v, %v", got, err)
		}
		return nil
	})
}
