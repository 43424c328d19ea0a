package traffic

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

func TestCircuitBreaker(t *testing.T) {
	m := startCallerMesh(t)
	t.Run("detectors", m.testDetectors)
	t.Run("panic", m.testPanic)
	t.Run("requests", m.testMaxRequests)
	t.Run("pending", m.testPending)
	t.Run("connections", m.testMaxConnections)
	t.Run("retries", m.testMaxRetries)
}

// rests waits until the instance gets nothing of 30 requests in a row, and says how many failed until then.
func (m *callerMesh) rests(t *testing.T, a *meshtest.Workload) (failed int) {
	t.Helper()
	quiet := 0
	meshtest.Eventually(t, a.Name+" rests", func() (bool, string) {
		for range 10 {
			before := a.Requests()
			r := m.web.Get("api")
			if r.Status != 200 {
				failed++
			}
			if a.Requests() != before || r.Status != 200 {
				quiet = 0
			} else {
				quiet++
			}
		}
		return quiet >= 30, fmt.Sprintf("%d requests without it, %d failures", quiet, failed)
	})
	return failed
}

// testDetectors: each opens the circuit of the instance that fails, and it closes again.
func (m *callerMesh) testDetectors(t *testing.T) {
	m.Apply(t, toAPI("MeshRetry", noRetries))
	ill := m.api[0]
	for _, c := range []struct {
		name, detector string
		// fail is what the instance answers; 0: it does not listen. harmless is an answer that this
		// detector does not mind.
		fail, harmless int
		// inARow is how many failures it takes, if that is certain.
		inARow int
	}{
		{"total", "detectors: {totalFailures: {consecutive: 5}}", 500, 404, 5},
		{"gateway", "detectors: {gatewayFailures: {consecutive: 3}}", 503, 500, 3},
		{"local", "splitExternalAndLocalErrors: true, detectors: {localOriginFailures: {consecutive: 4}}", 0,
			500, 4},
		{"success rate", "detectors: {successRate: {minimumHosts: 3, requestVolume: 10, " +
			"standardDeviationFactor: '1.1'}}", 500, 404, 0},
		{"failure percentage",
			"detectors: {failurePercentage: {minimumHosts: 3, requestVolume: 10, threshold: 60}}", 500, 404,
			0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Apply(t, toAPI("MeshCircuitBreaker",
				"default: {outlierDetection: {interval: 200ms, baseEjectionTime: 1s, maxEjectionPercent: 1, "+
					c.detector+"}}"))
			ill.Fail(t, c.harmless)
			before := ill.Requests()
			for range 60 {
				m.web.Get("api")
			}
			if n := ill.Requests() - before; n != 20 {
				t.Errorf("an instance that answers %d got %d of 60 requests, want its third", c.harmless, n)
			}
			ill.Fail(t, http.StatusOK)
			m.web.Get("api") // ends a row of harmless answers
			m.web.Get("api")
			m.web.Get("api")
			if c.fail == 0 {
				ill.Stop()
			} else {
				ill.Fail(t, c.fail)
			}
			if failed := m.rests(t, ill); c.inARow != 0 && (failed < c.inARow || failed > c.inARow+20) {
				t.Errorf("%d requests failed, want %d, or little more until all threads know", failed,
					c.inARow)
			}
			ill.Fail(t, http.StatusOK)
			ill.Start(t)
			before = ill.Requests()
			meshtest.Eventually(t, "it comes back", func() (bool, string) {
				r := m.web.Get("api")
				return ill.Requests() > before, r.String()
			})
			for range 30 {
				if r := m.web.Get("api"); r.Status != 200 {
					t.Errorf("back, and %v", r)
				}
			}
		})
	}
}

// testPanic: with too few healthy instances all are used.
func (m *callerMesh) testPanic(t *testing.T) {
	m.Apply(t, toAPI("MeshRetry", noRetries))
	m.Apply(t, toAPI("MeshCircuitBreaker",
		"default: {outlierDetection: {interval: 200ms, baseEjectionTime: 30s, maxEjectionPercent: 100, "+
			"healthyPanicThreshold: 50, detectors: {totalFailures: {consecutive: 3}}}}"))
	m.api[0].Fail(t, 500)
	m.rests(t, m.api[0])
	m.api[1].Fail(t, 500)
	// The second is ejected after three failures, leaves a third of the instances, and all come back.
	meshtest.Eventually(t, "panic", func() (bool, string) {
		before := m.api[0].Requests()
		got := m.get(12)
		return m.api[0].Requests() > before && got["500"] >= 6, fmt.Sprint(got)
	})
}

// slow holds requests until release is called; entered says that one is there.
func slow(t *testing.T, a *meshtest.App) (entered chan struct{}, release func()) {
	entered, gate := make(chan struct{}, 100), make(chan struct{})
	open := true
	release = func() {
		if open {
			close(gate)
			open = false
		}
	}
	t.Cleanup(release)
	a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		a.Echo(w, r)
	})
	return entered, release
}

func later(f func() meshtest.Result) <-chan meshtest.Result {
	c := make(chan meshtest.Result, 1)
	go func() { c <- f() }()
	return c
}

func (m *callerMesh) overloaded(t *testing.T, r meshtest.Result) {
	t.Helper()
	if r.Status != 503 || r.Header.Get("x-envoy-overloaded") != "true" {
		t.Errorf("beyond the limit: %v with %v", r, r.Header)
	}
}

func (m *callerMesh) testMaxRequests(t *testing.T) {
	m.Apply(t, to("MeshCircuitBreaker", "api-next", "default: {connectionLimits: {maxRequests: 2}}"))
	m.Apply(t, to("MeshRetry", "api-next", noRetries))
	entered, release := slow(t, m.next.App)
	next := func() meshtest.Result { return m.web.Get("api-next") }
	one, two := later(next), later(next)
	<-entered
	<-entered
	m.overloaded(t, next())
	release()
	for _, c := range []<-chan meshtest.Result{one, two} {
		if r := <-c; r.Status != 200 {
			t.Errorf("within the limit: %v", r)
		}
	}
	if r := next(); r.Status != 200 {
		t.Errorf("when they are done: %v", r)
	}
}

// testPending: with one connection of one stream, the second request waits, and the third is one too many.
func (m *callerMesh) testPending(t *testing.T) {
	restart := func(streams int) {
		m.next.Stop()
		m.next.MaxStreams = streams
		m.next.Start(t)
	}
	restart(1)
	defer restart(0)
	m.Apply(t, to("MeshCircuitBreaker", "api-next",
		"default: {connectionLimits: {maxConnections: 1, maxPendingRequests: 1}, outlierDetection: "+
			"{disabled: true}}"))
	m.Apply(t, to("MeshRetry", "api-next", noRetries))
	next := func() meshtest.Result { return m.web.Get("api-next") }
	meshtest.Eventually(t, "a connection that has learned its bounds",
		func() (bool, string) { r := next(); return r.Status == 200, r.String() })
	entered, release := slow(t, m.next.App)
	one := later(next)
	<-entered
	two := later(next)
	three := later(next)
	// Whichever comes later is turned away while the other waits.
	var refused, waiting meshtest.Result
	select {
	case refused = <-two:
		release()
		waiting = <-three
	case refused = <-three:
		release()
		waiting = <-two
	}
	m.overloaded(t, refused)
	if r := <-one; r.Status != 200 || waiting.Status != 200 {
		t.Errorf("the first: %v; the one that waited: %v", r, waiting)
	}
}

func (m *callerMesh) testMaxConnections(t *testing.T) {
	m.Apply(t, to("MeshCircuitBreaker", "db", "default: {connectionLimits: {maxConnections: 2}}"))
	one, closeOne := m.web.Connect("db")
	two, closeTwo := m.web.Connect("db")
	defer closeTwo()
	if one != "db" || two != "db" {
		t.Fatalf("within the limit: %q %q", one, two)
	}
	if three, done := m.web.Connect("db"); three != "" {
		done()
		t.Error("a third connection is let through")
	}
	closeOne()
	meshtest.Eventually(t, "when one is closed, another may come", func() (bool, string) {
		who, done := m.web.Connect("db")
		done()
		return who == "db", who
	})
}

// testMaxRetries: of many requests that fail at once, one is retried at a time.
func (m *callerMesh) testMaxRetries(t *testing.T) {
	m.Apply(t, to("MeshCircuitBreaker", "api-next",
		"default: {connectionLimits: {maxRetries: 1}, outlierDetection: {disabled: true}}"))
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 1, retryOn: [5xx], backOff: {baseInterval: 2s, maxInterval: 2s}}}"))
	m.next.Fail(t, 500)
	before := m.next.Requests()
	got := tally(m.web.Many(20, 20, func(int) meshtest.Result { return m.web.Get("api-next") }))
	if n := m.next.Requests() - before; got["500"] != 20 || n < 21 || n > 26 {
		t.Errorf("20 requests made %d attempts, want 21 or little more: %v", n, got)
	}
}
