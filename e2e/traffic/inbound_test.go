package traffic

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

// inboundMesh is a world whose inbounds are under test.
type inboundMesh struct {
	*meshtest.World
	backend, store, web, batch *meshtest.Workload
}

func startInboundMesh(t *testing.T) *inboundMesh {
	m := &inboundMesh{World: meshtest.Start(t, us)}
	m.backend = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "backend-1",
		Service:   "backend",
		Labels:    map[string]string{"app": "backend"},
		Outbounds: []string{"store"},
	})
	m.store = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "store-1",
		Service:   "store",
		Protocol:  "tcp",
		Labels:    map[string]string{"app": "store"},
		Outbounds: []string{"backend"},
	})
	m.web = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "web-1",
		Service:   "web",
		Outbounds: []string{"backend", "store"},
	})
	m.batch = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "batch-1",
		Service:   "batch",
		Outbounds: []string{"backend", "store"},
	})
	m.web.Await(t, "backend")
	m.batch.Await(t, "backend")
	m.store.Await(t, "backend")
	return m
}

func TestInbound(t *testing.T) {
	m := startInboundMesh(t)
	t.Run("rate limit", m.testRateLimit)
	t.Run("rate limit of connections", m.testConnectionRate)
	t.Run("faults", m.testFaults)
	t.Run("bandwidth", m.testBandwidth)
	t.Run("timeout", m.testInboundTimeout)
	t.Run("limits", m.testInboundLimits)
	t.Run("by caller", m.testByCaller)
}

// onInbound is a policy with rules for the workloads of an app.
func onInbound(kind, app, rules string) string {
	return fmt.Sprintf("type: %s\nmesh: default\nname: on-inbound-%s\nspec: {targetRef: {kind: "+
		"Dataplane, labels: "+
		"{app: %s}}, rules: [%s]}\n", kind, app, app, rules)
}

// settled returns when the worker of the workload's Envoy has gone round once more, so that it
// works with what was acknowledged before. It asks at another listener, and so takes no tokens.
func settled(t *testing.T, x *meshtest.Workload) {
	t.Helper()
	for range 2 {
		c, err := net.Dial("tcp", x.To(x.Outbounds[0]))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(meshtest.Patience))
		_, _ = io.WriteString(c, "nonsense\r\n\r\n")
		_, _ = bufio.NewReader(c).ReadByte()
		_ = c.Close()
	}
}

// direct calls a workload from outside of the mesh, each time over a connection of its own.
func direct(x *meshtest.Workload, path string) (r meshtest.Result) {
	began := time.Now()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: meshtest.Patience}
	resp, err := c.Get("http://" + net.JoinHostPort(x.Address, strconv.Itoa(meshtest.InboundPort)) + path)
	if err != nil {
		return meshtest.Result{Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	r.Status, r.Header = resp.StatusCode, resp.Header
	r.Body, r.Err = io.ReadAll(resp.Body)
	r.Took = time.Since(began)
	return r
}

func statuses(n int, one func() meshtest.Result) map[int]int {
	out := map[int]int{}
	for range n {
		out[one().Status]++
	}
	return out
}

func (m *inboundMesh) testRateLimit(t *testing.T) {
	m.Apply(t, onInbound("MeshRateLimit", "backend",
		`{default: {local: {http: {requestRate: {num: 10, interval: 1h},
		onRateLimit: {status: 503, headers: {set: [{name: x-slow, value: down}],
		add: [{name: x-why, value: '10 per hour'}]}}}}}}`))
	settled(t, m.backend)
	before := m.backend.Requests()
	call := func() meshtest.Result { return direct(m.backend, "/") }
	if got := statuses(10, call); got[200] != 10 {
		t.Errorf("ten may pass: %v", got)
	}
	r := call()
	if r.Status != 503 || r.Header.Get("x-slow") != "down" || r.Header.Get("x-why") != "10 per hour" {
		t.Errorf("the eleventh: %v with %v", r, r.Header)
	}
	if got := statuses(20, call); got[503] != 20 || m.backend.Requests()-before != 10 {
		t.Errorf("and the others: %v, and %d reached the application", got, m.backend.Requests()-before)
	}
	// Tokens come back.
	m.Apply(t, onInbound("MeshRateLimit", "backend",
		"{default: {local: {http: {requestRate: {num: 2, interval: 1s}}}}}"))
	settled(t, m.backend)
	if got := statuses(2, call); got[200] != 2 {
		t.Errorf("two may pass: %v", got)
	}
	passed := 0
	began := time.Now()
	meshtest.Eventually(t, "four more pass", func() (bool, string) {
		r := call()
		if r.Status == 200 {
			passed++
		} else if r.Status != 429 {
			t.Error(r)
		}
		return passed == 4, fmt.Sprint(passed)
	})
	if took := time.Since(began); took < 1200*time.Millisecond {
		t.Errorf("four more came back in %s, want two a second", took)
	}
	m.Apply(t, onInbound("MeshRateLimit", "backend",
		"{default: {local: {http: {disabled: true, requestRate: {num: 1, interval: 1h}}}}}"))
	settled(t, m.backend)
	if got := statuses(20, call); got[200] != 20 {
		t.Errorf("disabled: %v", got)
	}
}

func (m *inboundMesh) testConnectionRate(t *testing.T) {
	m.Apply(t, onInbound("MeshRateLimit", "store",
		"{default: {local: {tcp: {connectionRate: {num: 5, interval: 1h}}}}}"))
	settled(t, m.store)
	passed := ""
	for range 12 {
		c, err := net.Dial("tcp", net.JoinHostPort(m.store.Address, strconv.Itoa(meshtest.InboundPort)))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(meshtest.Patience))
		line, _ := bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
		passed += fmt.Sprintf("%d", len(line)/len("store-1\n"))
	}
	if passed != "111110000000" {
		t.Errorf("connections that passed: %s, want the first five", passed)
	}
}

func (m *inboundMesh) testFaults(t *testing.T) {
	call := func(int) meshtest.Result { return direct(m.backend, "/") }
	m.Apply(t, onInbound("MeshFaultInjection", "backend",
		"{default: {http: [{abort: {httpStatus: 500, percentage: 20}}]}}"))
	settled(t, m.backend)
	shares := func(n int) map[string]int {
		out := map[string]int{}
		for _, r := range m.web.Many(n, 8, call) {
			out[fmt.Sprint(r.Status)]++
		}
		return out
	}
	chiSquared(t, shares(1000), map[string]float64{"200": 0.8, "500": 0.2})
	// One after the other.
	m.Apply(t, onInbound("MeshFaultInjection", "backend",
		"{default: {http: [{abort: {httpStatus: 500, percentage: 70}}, {abort: {httpStatus: 503, "+
			"percentage: 50}}]}}"))
	settled(t, m.backend)
	chiSquared(t, shares(1000), map[string]float64{"500": 0.7, "503": 0.15, "200": 0.15})
	const delay = 2 * time.Second
	m.Apply(t, onInbound("MeshFaultInjection", "backend",
		fmt.Sprintf("{default: {http: [{delay: {value: %s, percentage: 30}}]}}", delay)))
	settled(t, m.backend)
	late := 0
	for _, r := range m.web.Many(200, 200, call) {
		if r.Status != 200 {
			t.Errorf("a delayed request: %v", r)
		}
		if r.Took >= delay*3/4 {
			late++
		}
	}
	if late < 28 || late > 95 { // 60 are expected, with a deviation of 6.5
		t.Errorf("%d of 200 are late, want about 60", late)
	}
}

func (m *inboundMesh) testBandwidth(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 100_000)
	m.backend.Handle(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	m.Apply(t, onInbound("MeshFaultInjection", "backend",
		"{default: {http: [{responseBandwidth: {limit: 800kbps, percentage: 100}}]}}"))
	settled(t, m.backend)
	// 800 kbit are 100 kB a second.
	if r := direct(m.backend, "/"); len(r.Body) != len(body) || r.Took < 700*time.Millisecond ||
		r.Took > 8*time.Second {
		t.Errorf("%d bytes after %s, want %d after a second", len(r.Body), r.Took, len(body))
	}
}

func (m *inboundMesh) testInboundTimeout(t *testing.T) {
	hang(t, m.backend.App, 1)
	m.Apply(t, onInbound("MeshTimeout", "backend", "{default: {http: {requestTimeout: 200ms}}}"))
	settled(t, m.backend)
	if r := direct(m.backend, "/"); r.Status != 504 || r.Took < 120*time.Millisecond {
		t.Errorf("a request that hangs: %v", r)
	}
	if r := direct(m.backend, "/"); r.Status != 200 {
		t.Errorf("one that does not: %v", r)
	}
}

func (m *inboundMesh) testInboundLimits(t *testing.T) {
	m.Apply(t, onInbound("MeshCircuitBreaker", "backend",
		"{default: {connectionLimits: {maxConnections: 1, maxPendingRequests: 1}}}"))
	settled(t, m.backend)
	entered, release := slow(t, m.backend.App)
	call := func() meshtest.Result { return direct(m.backend, "/") }
	one := later(call)
	<-entered
	two, three := later(call), later(call)
	var refused, waiting meshtest.Result
	select {
	case refused = <-two:
		release()
		waiting = <-three
	case refused = <-three:
		release()
		waiting = <-two
	}
	if r := <-one; r.Status != 200 || waiting.Status != 200 || refused.Status != 503 {
		t.Errorf("the first: %v; the one that waited: %v; the one too many: %v", r, waiting, refused)
	}
}

const strict = `
type: Mesh
name: default
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin, mode: STRICT}]}
---
type: MeshTrafficPermission
mesh: default
name: all
spec:
  targetRef: {kind: Mesh}
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://default"}}]}}]
`

// testByCaller: with certificates, limits and faults tell callers apart.
func (m *inboundMesh) testByCaller(t *testing.T) {
	m.Apply(t, strict)
	m.web.Await(t, "backend")
	m.batch.Await(t, "backend")
	meshtest.Eventually(t, "who has no certificate is not let in", func() (bool, string) {
		r := direct(m.backend, "/")
		return r.Err != nil, r.String()
	})
	call := func(x *meshtest.Workload) func() meshtest.Result {
		return func() meshtest.Result { return x.Get("backend") }
	}
	exact := func(kind, conf string) string {
		return onInbound(kind, "backend",
			"{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}], default: "+conf+"}")
	}
	t.Run("by tags", func(t *testing.T) {
		m.Apply(t, `
type: MeshFaultInjection
mesh: default
name: by-tags
spec:
  targetRef: {kind: Dataplane, labels: {app: backend}}
  from:
  - targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}
    default: {http: [{abort: {httpStatus: 418, percentage: 100}}]}
`)
		meshtest.Eventually(t, "web is concerned",
			func() (bool, string) { r := m.web.Get("backend"); return r.Status == 418, r.String() })
		if got := statuses(20, call(m.batch)); got[200] != 20 {
			t.Errorf("batch is not: %v", got)
		}
	})
	for kind, c := range map[string]struct {
		conf   string
		status int
	}{
		"MeshFaultInjection": {"{http: [{abort: {httpStatus: 418, percentage: 100}}]}", 418},
		"MeshRateLimit":      {"{local: {http: {requestRate: {num: 3, interval: 1h}}}}", 429},
		"MeshTimeout":        {"{http: {requestTimeout: 1ms}}", 504},
	} {
		t.Run(kind, func(t *testing.T) {
			if kind == "MeshTimeout" {
				m.backend.Handle(t, func(w http.ResponseWriter, r *http.Request) {
					if strings.Contains(r.Header.Get("x-forwarded-client-cert"), "spiffe://default/web") {
						<-r.Context().Done()
					}
					m.backend.Echo(w, r)
				})
			}
			m.Apply(t, "type: MeshRetry\nmesh: default\nname: none\nspec: {to: [{targetRef: {kind: Mesh}, "+
				noRetries+"}]}")
			m.Apply(t, "type: MeshCircuitBreaker\nmesh: default\nname: none\nspec: {to: [{targetRef: "+
				"{kind: Mesh}, "+noEjection+"}]}")
			m.Apply(t, exact(kind, c.conf))
			in := 0
			meshtest.Eventually(t, "web is concerned", func() (bool, string) {
				r := m.web.Get("backend")
				if in++; r.Status != c.status {
					in = 0
				}
				return in == 10, r.String()
			})
			if got := statuses(20, call(m.batch)); got[200] != 20 {
				t.Errorf("batch is not: %v", got)
			}
			if got := statuses(20, call(m.web)); got[c.status] != 20 {
				t.Errorf("web: %v", got)
			}
		})
	}
}
