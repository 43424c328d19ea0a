package traffic

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

// TestChangesUnderLoad: each kind of policy comes, changes and goes under load, and no request and
// no connection fails.
func TestChangesUnderLoad(t *testing.T) {
	w := meshtest.Start(t, us)
	w.Apply(t, strict)
	add := func(name, service, protocol string, outbounds ...string) *meshtest.Workload {
		return w.Add(meshtest.Spec{
			Zone:      us,
			Name:      name,
			Service:   service,
			Protocol:  protocol,
			Labels:    map[string]string{"app": service},
			Outbounds: outbounds,
		})
	}
	add("backend-1", "backend", "http")
	add("backend-2", "backend", "http")
	add("db-1", "db", "tcp")
	web := add("web-1", "web", "http", "backend", "db")
	web.Await(t, "backend")
	meshtest.Eventually(t, "web reaches db", func() (bool, string) {
		who, done := web.Connect("db")
		done()
		return who == "db-1", who
	})

	var sent atomic.Int64
	var mu sync.Mutex
	var failed []string
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, text)
	}
	failures := func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := failed
		failed = nil
		return out
	}
	end := make(chan struct{})
	var load sync.WaitGroup
	defer load.Wait()
	defer close(end)
	for _, one := range []func(){
		func() {
			if r := web.Get("backend"); r.Status != 200 {
				note(r.String())
			}
		},
		func() {
			if r := web.CallFresh("backend"); r.Status != 200 {
				note("over a new connection: " + r.String())
			}
		},
		func() {
			who, done := web.Connect("db")
			done()
			if who != "db-1" {
				note(fmt.Sprintf("a connection to %q", who))
			}
		},
	} {
		load.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				one()
				sent.Add(1)
				select {
				case <-tick.C:
				case <-end:
					return
				}
			}
		})
	}
	// more waits for some more of each.
	more := func() {
		target := sent.Load() + 60
		meshtest.Eventually(t, "more requests", func() (bool, string) { return sent.Load() >= target, "" })
	}
	more()

	refs := func(weight int) string {
		return fmt.Sprintf("backendRefs: [{kind: MeshService, name: backend, port: 8080, weight: "+
			"%d}, {kind: "+
			"MeshService, name: backend, port: 8080, weight: 1}]", weight)
	}
	tcp := "rules: [{default: {backendRefs: [{kind: MeshService, name: db, port: 8080, weight: %d}]}}]"
	toBackend := func(kind string, confs ...string) (out []string) {
		for _, c := range confs {
			out = append(out, to(kind, "backend", "default: "+c))
		}
		return out
	}
	onInbounds := func(kind, app string, confs ...string) (out []string) {
		for _, c := range confs {
			out = append(out, onInbound(kind, app, c))
		}
		return out
	}
	for _, c := range []struct {
		name string
		docs []string
	}{
		{"MeshHTTPRoute", []string{toBackendRules("matches: [{path: {type: PathPrefix, value: " +
			"/}}], default: {" + refs(1) + "}"),
			toBackendRules("matches: [{method: GET}], default: {" + refs(9) +
				", filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, " +
				"replaceFullPath: /x}}}]}"),
			toBackendRules("matches: [{path: {type: Exact, value: /y}}], default: {}")}},
		{"MeshTCPRoute", []string{to("MeshTCPRoute", "db", fmt.Sprintf(tcp, 1)),
			to("MeshTCPRoute", "db", fmt.Sprintf(tcp, 2)), to("MeshTCPRoute", "db", "rules: []")}},
		{"MeshLoadBalancingStrategy",
			toBackend("MeshLoadBalancingStrategy", "{loadBalancer: {type: LeastRequest}}",
				"{loadBalancer: {type: RingHash}, hashPolicies: [{type: Header, header: {name: x-user}}]}",
				"{loadBalancer: {type: Maglev}}", "{loadBalancer: {type: Random}}")},
		{"MeshRetry", toBackend("MeshRetry", "{http: {numRetries: 3, retryOn: [5xx]}}",
			"{http: {numRetries: 2, perTryTimeout: 10s}}")},
		{"MeshTimeout", toBackend("MeshTimeout", "{http: {requestTimeout: 9s}}",
			"{connectionTimeout: 9s, idleTimeout: 10m}", "{http: {maxConnectionDuration: 500ms}}")},
		{"MeshTimeout on the inbound",
			onInbounds("MeshTimeout", "backend", "{default: {http: {requestTimeout: 9s}}}",
				"{default: {idleTimeout: 10m, http: {requestTimeout: 8s}}}")},
		{"MeshHealthCheck", toBackend("MeshHealthCheck",
			"{interval: 100ms, timeout: 5s, http: {path: /health}}",
			"{interval: 1s, timeout: 5s, http: {path: /other}}")},
		{"MeshCircuitBreaker",
			toBackend("MeshCircuitBreaker", "{connectionLimits: {maxRequests: 100}}",
				"{connectionLimits: {maxRequests: 200, maxConnections: 50}, outlierDetection: {detectors: "+
					"{totalFailures: {consecutive: 5}}}}")},
		{"MeshRateLimit", append(onInbounds("MeshRateLimit", "backend",
			"{default: {local: {http: {requestRate: {num: 100000, interval: 1s}}}}}",
			"{default: {local: {http: {requestRate: {num: 200000, interval: 1s}}}}}"),
			onInbounds("MeshRateLimit", "db",
				"{default: {local: {tcp: {connectionRate: {num: 100000, interval: 1s}}}}}")...)},
		{"MeshFaultInjection",
			onInbounds("MeshFaultInjection", "backend",
				"{default: {http: [{delay: {value: 1ms, percentage: 50}}]}}",
				"{default: {http: [{abort: {httpStatus: 500, percentage: 0}}]}}")},
		{"MeshTrafficPermission", []string{
			onInbound("MeshTrafficPermission", "backend",
				"{default: {allow: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}]}}"),
			onInbound("MeshTrafficPermission", "backend",
				"{default: {allow: [{spiffeID: {type: Prefix, value: 'spiffe://default'}}], deny: "+
					"[{spiffeID: "+
					"{type: Exact, value: 'spiffe://default/other'}}]}}")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, doc := range c.docs {
				w.Apply(t, doc)
				more()
			}
		})
		more()
		if list := failures(); len(list) > 0 {
			t.Errorf("%s: %d failed, the first %s", c.name, len(list), list[0])
		}
	}
	// What was drained is closed after a second.
	drained := time.Now().Add(1500 * time.Millisecond)
	meshtest.Eventually(t, "the end of the drain",
		func() (bool, string) { return time.Now().After(drained), "" })
	if list := failures(); len(list) > 0 {
		t.Errorf("in the end: %d failed, the first %s", len(list), list[0])
	}
	t.Logf("%d requests and connections", sent.Load())
}

func toBackendRules(rule string) string {
	return to("MeshHTTPRoute", "backend", "rules: [{"+rule+"}]")
}
