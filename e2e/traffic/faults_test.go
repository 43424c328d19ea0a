package traffic

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

var faultTests = []test{
	{"Retries", retries},
	{"RetryBackoff", retryBackoff},
	{"Timeouts", timeouts},
	{"InboundTimeout", inboundTimeout},
	{"RateLimit", rateLimit},
	{"RateLimitByCaller", rateLimitByCaller},
	{"RateLimitTCP", rateLimitTCP},
	{"Faults", faults},
	{"FaultsByCaller", faultsByCaller},
}

// to is a policy of web about a service.
func to(kind, name, conf string) string {
	return fmt.Sprintf("type: %s\nmesh: default\nname: %s\nspec:\n  targetRef: {kind: Dataplane, labels: {app: web}}\n  to: [{targetRef: {kind: MeshService, name: backend}, default: %s}]\n", kind, name, conf)
}

// at is a policy about callers of an instance's port.
func at(kind, name, instance, section, rules string) string {
	return fmt.Sprintf("type: %s\nmesh: default\nname: %s\nspec:\n  targetRef: {kind: Dataplane, name: %s, sectionName: %s}\n  rules: %s\n", kind, name, instance, section, rules)
}

// flaky fails the first n requests of each caller's request id with a status.
func (w *world) flaky(n int64, status int) *atomic.Int64 {
	var tries atomic.Int64
	for _, a := range w.apps {
		a.behave(w.t, func(rw http.ResponseWriter, _ *http.Request) bool {
			if tries.Add(1) > n {
				return false
			}
			rw.WriteHeader(status)
			return true
		})
	}
	return &tries
}

func retries(w *world) {
	w.policy(to("MeshRetry", "retries", `{http: {numRetries: 2, retryOn: ["503"], backOff: {baseInterval: 10ms, maxInterval: 20ms}}}`))
	tries := w.flaky(2, 503)
	w.check(want(w.keep("/"), 200))
	if n := tries.Load(); n != 3 {
		w.t.Errorf("an answer after %d tries, want 3", n)
	}
	tries = w.flaky(3, 503)
	w.check(want(w.keep("/"), 503))
	if n := tries.Load(); n != 3 {
		w.t.Errorf("given up after %d tries, want 3", n)
	}
	tries = w.flaky(1, 500)
	w.check(want(w.keep("/"), 500))
	if n := tries.Load(); n != 1 {
		w.t.Errorf("%d tries for a status that is not in the list", n)
	}
	// Retries go to instances that have not failed the request.
	w.policy(to("MeshRetry", "retries", `{http: {numRetries: 3, retryOn: ["5xx"], backOff: {baseInterval: 1ms, maxInterval: 2ms}}}`))
	for name, a := range w.apps {
		a.set(nil)
		if name != "v2-b" {
			a.set(fails(502))
		}
	}
	for range 8 {
		w.check(want(w.keep("/"), 200, "v2-b"))
	}
}

func retryBackoff(w *world) {
	w.policy(to("MeshRetry", "backoff", `{http: {numRetries: 1, retryOn: ["503"], backOff: {baseInterval: 400ms, maxInterval: 400ms}}}`))
	// The pause is chance below the base: of ten, hardly all are short.
	longest := time.Duration(0)
	for range 10 {
		w.flaky(1, 503)
		a := w.keep("/")
		w.check(want(a, 200))
		longest = max(longest, a.took)
	}
	if longest < 120*time.Millisecond || longest > 900*time.Millisecond {
		w.t.Errorf("the longest of ten pauses below 400 ms took %s", longest)
	}
	w.policy(to("MeshRetry", "backoff", `{http: {numRetries: 1, retryOn: ["503"], rateLimitedBackOff: {maxInterval: 5s, resetHeaders: [{name: retry-after, format: Seconds}]}}}`))
	var tries atomic.Int64
	for _, a := range w.apps {
		a.set(func(rw http.ResponseWriter, _ *http.Request) bool {
			if tries.Add(1) > 1 {
				return false
			}
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(503)
			return true
		})
	}
	if a := w.keep("/"); a.status != 200 || a.took < time.Second || a.took > 3*time.Second {
		w.t.Errorf("the header said one second: %v", a)
	}
}

func timeouts(w *world) {
	w.policy(to("MeshRetry", "once", `{http: {numRetries: 2, perTryTimeout: 150ms, retryOn: ["5xx"], backOff: {baseInterval: 1ms, maxInterval: 2ms}}}`))
	w.policy(to("MeshTimeout", "timeouts", "{http: {requestTimeout: 2s}}"))
	var tries atomic.Int64
	for _, a := range w.apps {
		a.behave(w.t, func(_ http.ResponseWriter, r *http.Request) bool {
			if tries.Add(1) < 3 {
				<-r.Context().Done()
				return true
			}
			return false
		})
	}
	if a := w.keep("/"); a.status != 200 || a.took < 300*time.Millisecond || tries.Load() != 3 {
		w.t.Errorf("two tries of 150 ms, then an answer: %v after %d tries", a, tries.Load())
	}
	w.policy(to("MeshTimeout", "timeouts", "{http: {requestTimeout: 250ms}}"))
	for _, a := range w.apps {
		a.set(slow(5 * time.Second))
	}
	if a := w.keep("/"); a.status != 504 || a.took < 240*time.Millisecond || a.took > 1500*time.Millisecond {
		w.t.Errorf("250 ms for all tries together: %v", a)
	}
}

func inboundTimeout(w *world) {
	w.policy(at("MeshTimeout", "inbound", "v1-a", "http", "[{default: {http: {requestTimeout: 200ms}}}]"))
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	for _, a := range w.apps {
		a.behave(w.t, slow(600*time.Millisecond))
	}
	w.eventually("one instance alone gives up", func() error {
		got := w.spread(4, "/")
		if got["504"] != 1 || got["v1-b"] != 1 || got["v2-a"] != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// burst sends n requests to one instance's version at once over kept connections, and counts statuses.
func (w *world) burst(n int, url string, o ...option) map[int]int {
	results := make(chan int, n)
	for range n {
		go func() { results <- w.call(w.kept, url, o...).status }()
	}
	out := map[int]int{}
	for range n {
		out[<-results]++
	}
	return out
}

func rateLimit(w *world) {
	w.policy(at("MeshRateLimit", "ten", "v1-a", "http", `[{default: {local: {http: {requestRate: {num: 10, interval: 1h}, onRateLimit: {status: 423, headers: {set: [{name: x-limited, value: "yes"}]}}}}}}]`))
	w.policy(route("to-v1", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]"))
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	limited := 0
	w.eventually("the limit holds", func() error {
		got := map[string]int{}
		for range 60 {
			a := w.get("/")
			if a.status == 423 {
				limited++
				if a.headers.Get("X-Limited") != "yes" {
					return fmt.Errorf("a refusal without the header: %v", a.headers)
				}
			}
			got[fmt.Sprint(a.status, a.app)]++
		}
		// Half of the requests are the limited instance's. Exactly ten of those are let through, in this round or before.
		if limited == 0 || got["200v1-b"] != 30 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	before := w.apps["v1-a"].requests.Load()
	if got := w.burst(40, w.outbound(outHTTP)+"/"); got[423] != 20 || got[200] != 20 || w.apps["v1-a"].requests.Load() != before {
		w.t.Errorf("after the ten are used up: %v", got)
	}
}

// rateLimitByCaller: what is said of some callers does not concern the others.
func rateLimitByCaller(w *world) {
	w.policy(at("MeshRateLimit", "by-caller", "v1-a", "http", `[
		{matches: [{spiffeID: {type: Exact, value: "spiffe://default/somebody-else"}}], default: {local: {http: {requestRate: {num: 1, interval: 1h}}}}},
		{matches: [{spiffeID: {type: Exact, value: "spiffe://default/web"}}], default: {local: {http: {requestRate: {num: 3, interval: 1h}, onRateLimit: {status: 429}}}}}]`))
	w.policy(route("to-v1", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]"))
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	before := w.apps["v1-a"].requests.Load()
	w.eventually("web is limited", func() error {
		if a := w.get("/"); a.status != 429 {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	if n := w.apps["v1-a"].requests.Load() - before; n < 3 {
		w.t.Errorf("%d requests were let through, want the three of web", n)
	}
}

func rateLimitTCP(w *world) {
	w.policy(at("MeshRateLimit", "connections", "v1-a", "tcp", "[{default: {local: {tcp: {connectionRate: {num: 3, interval: 1h}}}}}]"))
	w.policy(at("MeshRateLimit", "connections-b", "v1-b", "tcp", "[{default: {local: {tcp: {connectionRate: {num: 3, interval: 1h}}}}}]"))
	open := 0
	w.eventually("connections are refused", func() error {
		got := w.dials(4, outTCPV1)
		open += 4 - got[""]
		if got[""] == 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if got := w.dials(10, outTCPV1); got[""] < 4 {
		w.t.Errorf("%d connections were open when the limit was met, and then %v", open, got)
	}
}

func faults(w *world) {
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	w.policy(route("to-v1", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]"))
	fault := func(conf string) string {
		return at("MeshFaultInjection", "fault-a", "v1-a", "http", "[{default: {http: ["+conf+"]}}]") + "---\n" + at("MeshFaultInjection", "fault-b", "v1-b", "http", "[{default: {http: ["+conf+"]}}]")
	}
	w.policy(fault("{abort: {httpStatus: 418, percentage: 100}}"))
	w.eventually("all are aborted", func() error { return want(w.get("/"), 418) })
	w.policy(fault("{abort: {httpStatus: 418, percentage: 30}}"))
	w.eventually("some are aborted", func() error {
		got := w.spread(300, "/")
		if n := got["418"]; n < 55 || n > 130 || n+got["v1-a"]+got["v1-b"] != 300 {
			return fmt.Errorf("30 %% of 300: %v", got)
		}
		return nil
	})
	w.policy(fault("{delay: {value: 300ms, percentage: 100}}"))
	w.eventually("all are delayed", func() error {
		if a := w.get("/"); a.status != 200 || a.took < 300*time.Millisecond {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	for _, a := range w.apps {
		a.behave(w.t, func(rw http.ResponseWriter, _ *http.Request) bool {
			_, _ = rw.Write(make([]byte, 64<<10))
			return true
		})
	}
	w.policy(fault("{responseBandwidth: {limit: 512kbps, percentage: 100}}"))
	w.eventually("answers are slowed down", func() error {
		if a := w.get("/"); a.status != 200 || a.took < 500*time.Millisecond {
			return fmt.Errorf("64 KiB at 512 kbit/s: %v", a)
		}
		return nil
	})
}

func faultsByCaller(w *world) {
	w.policy(to("MeshRetry", "never", "{http: {numRetries: 0}}"))
	w.policy(route("to-v1", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]"))
	for _, c := range []struct {
		who    string
		status int
	}{{"web", 418}, {"somebody", 200}} {
		rules := fmt.Sprintf(`[{matches: [{spiffeID: {type: Exact, value: "spiffe://default/%s"}}], default: {http: [{abort: {httpStatus: 418, percentage: 100}}]}}]`, c.who)
		w.apply(at("MeshFaultInjection", "by-caller-a", "v1-a", "http", rules) + "---\n" + at("MeshFaultInjection", "by-caller-b", "v1-b", "http", rules))
		w.eventually("faults of "+c.who, func() error {
			for range 6 {
				if err := want(w.get("/"), c.status); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.remove(w.apply(at("MeshFaultInjection", "by-caller-a", "v1-a", "http", "[{default: {http: []}}]") + "---\n" + at("MeshFaultInjection", "by-caller-b", "v1-b", "http", "[{default: {http: []}}]"))...)
}
