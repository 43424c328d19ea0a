package traffic

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

func TestResilience(t *testing.T) {
	m := startCallerMesh(t)
	t.Run("retry counts", m.testRetryCounts)
	t.Run("retries elsewhere", m.testRetryElsewhere)
	t.Run("retries by tags", m.testRetryByTags)
	t.Run("what is retried", m.testRetryOn)
	t.Run("back-off", m.testBackOff)
	t.Run("rate-limited back-off", m.testResetHeaders)
	t.Run("grpc", m.testRetryGRPC)
	t.Run("grpc timeouts", m.testTimeoutsGRPC)
	t.Run("tcp", m.testRetryTCP)
	t.Run("per-try timeout", m.testPerTry)
	t.Run("request timeout", m.testRequestTimeout)
	t.Run("stream timeouts", m.testStreamTimeouts)
	t.Run("headers timeout", m.testHeadersTimeout)
	t.Run("idle timeout", m.testIdleTimeout)
	t.Run("connection timeout", m.testConnectionTimeout)
}

const (
	noRetries  = "default: {http: {numRetries: 0}}"
	noEjection = "default: {outlierDetection: {disabled: true}}"
)

func (m *callerMesh) testRetryCounts(t *testing.T) {
	for _, retries := range []int{0, 1, 3} {
		m.Apply(t, to("MeshRetry", "api-next",
			fmt.Sprintf("default: {http: {numRetries: %d, retryOn: [5xx], backOff: {baseInterval: 1ms, "+
				"maxInterval: 2ms}}}", retries)))
		m.next.Fail(t, 500)
		before := m.next.Requests()
		if r := m.web.Get("api-next"); r.Status != 500 || m.next.Requests()-before != retries+1 {
			t.Errorf("numRetries %d: %d attempts, %v", retries, m.next.Requests()-before, r)
		}
		var attempts atomic.Int64
		m.next.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			if attempts.Add(1) <= int64(retries) {
				w.WriteHeader(500)
				return
			}
			m.next.Echo(w, r)
		})
		if r := m.web.Get("api-next"); r.Status != 200 || attempts.Load() != int64(retries+1) {
			t.Errorf("numRetries %d, as many failures: %d attempts, %v", retries, attempts.Load(), r)
		}
	}
}

// testRetryElsewhere: a retry goes to an instance that has not failed the request.
func (m *callerMesh) testRetryElsewhere(t *testing.T) {
	m.Apply(t, toAPI("MeshCircuitBreaker", noEjection))
	m.Apply(t, toAPI("MeshRetry",
		"default: {http: {numRetries: 2, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 2ms}}}"))
	m.api[0].Fail(t, 500)
	m.api[1].Fail(t, 500)
	before := m.api[0].Requests() + m.api[1].Requests()
	if got := m.get(200); got["api-3"] != 200 {
		t.Errorf("one of three serves, and two retries: %v", got)
	}
	if n := m.api[0].Requests() + m.api[1].Requests() - before; n < 50 {
		t.Errorf("the failing instances were asked %d times only: nothing was retried", n)
	}
}

// testRetryByTags: instances with the tags are left out of retries, though not of first attempts.
func (m *callerMesh) testRetryByTags(t *testing.T) {
	newer := m.Add(meshtest.Spec{
		Zone:    us,
		Name:    "api-newer",
		Service: "api",
		Bare:    true,
		Tags:    map[string]string{"version": "v2"},
	})
	defer newer.Remove(t)
	m.Apply(t, toAPI("MeshCircuitBreaker", noEjection))
	m.Apply(t, toAPI("MeshRetry",
		`default: {http: {numRetries: 1, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 2ms},
		hostSelection: [{predicate: OmitHostsWithTags, tags: {version: v1}}],
		hostSelectionMaxAttempts: 10}}`))
	for _, a := range m.api {
		a.Fail(t, 500)
	}
	before := m.api[0].Requests()
	if got := m.get(80); got["api-newer"] != 80 || m.api[0].Requests() == before {
		t.Errorf("every retry should go to the newer instance: %v", got)
	}
}

func (m *callerMesh) testRetryOn(t *testing.T) {
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 1, retryOn: ['503', HttpMethodGet], backOff: {baseInterval: 1ms, "+
			"maxInterval: 2ms}}}"))
	m.Apply(t, to("MeshCircuitBreaker", "api-next", noEjection))
	for _, c := range []struct {
		method           string
		status, attempts int
	}{{"GET", 503, 2}, {"POST", 503, 1}, {"GET", 500, 1}} {
		m.next.Fail(t, c.status)
		before := m.next.Requests()
		if r := m.web.Call("api-next", c.method, "/"); m.next.Requests()-before != c.attempts {
			t.Errorf("%s, answered by %d: %d attempts, want %d (%v)", c.method, c.status,
				m.next.Requests()-before, c.attempts, r)
		}
	}
}

// gaps lets every request fail and notes the pauses before the attempts, by turn.
func (m *callerMesh) gaps(t *testing.T, requests int, header ...string) map[int][]time.Duration {
	var mu sync.Mutex
	last, turn := map[string]time.Time{}, map[string]int{}
	out := map[int][]time.Duration{}
	m.next.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id, now := r.Header.Get("x-id"), time.Now()
		if turn[id]++; turn[id] > 1 {
			out[turn[id]-1] = append(out[turn[id]-1], now.Sub(last[id]))
		}
		last[id] = now
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(500)
	})
	m.web.Many(requests, requests,
		func(i int) meshtest.Result { return m.web.Call("api-next", "GET", "/", "x-id", fmt.Sprint(i)) })
	mu.Lock()
	defer mu.Unlock()
	return out
}

// testBackOff: each pause is random, up to a bound that doubles.
func (m *callerMesh) testBackOff(t *testing.T) {
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 2, retryOn: [5xx], backOff: {baseInterval: 300ms, maxInterval: 1s}}}"))
	got := m.gaps(t, 60)
	mean := func(ds []time.Duration) (sum time.Duration) {
		for _, d := range ds {
			sum += d
		}
		return sum / time.Duration(max(1, len(ds)))
	}
	first, second := mean(got[1]), mean(got[2])
	if len(got[1]) != 60 || len(got[2]) != 60 || first < 80*time.Millisecond || second < first {
		t.Errorf("pauses of %s and %s on the average (%d, %d), want about 150 ms and 300 ms", first, second,
			len(got[1]), len(got[2]))
	}
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 2, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 2ms}}}"))
	if short := mean(m.gaps(t, 5)[2]); short > first {
		t.Errorf("a back-off of 2 ms takes %s", short)
	}
}

func (m *callerMesh) testResetHeaders(t *testing.T) {
	m.Apply(t, to("MeshRetry", "api-next",
		`default: {http: {numRetries: 1, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 2ms},
		rateLimitedBackOff: {maxInterval: 30s, resetHeaders: [{name: x-come-back, format: Seconds}]}}}`))
	if got := m.gaps(t, 3, "x-come-back", "1")[1]; len(got) != 3 ||
		min(got[0], got[1], got[2]) < 800*time.Millisecond {
		t.Errorf("asked to come back after 1 s: %v", got)
	}
}

// greet calls the gRPC service, whose handler decides.
func (m *callerMesh) greet(t *testing.T) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.web.To("greeter"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), meshtest.Patience)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{},
		grpc.WaitForReady(true))
	return err
}

func (m *callerMesh) testRetryGRPC(t *testing.T) {
	m.Apply(t, to("MeshRetry", "greeter",
		"default: {grpc: {numRetries: 2, retryOn: [ResourceExhausted], backOff: {baseInterval: 1ms, "+
			"maxInterval: 2ms}}}"))
	var failures, attempts atomic.Int64
	code := codes.ResourceExhausted
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	m.greeter.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		attempts.Add(1)
		if failures.Add(-1) < 0 {
			s.ServeHTTP(w, r)
			return
		}
		// A status in the headers, as gRPC servers send it when there is nothing else to say.
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("grpc-status", fmt.Sprint(int(code)))
	})
	for _, c := range []struct {
		failures, attempts int64
		code, want         codes.Code
	}{{2, 3, codes.ResourceExhausted, codes.OK}, {3, 3, codes.ResourceExhausted, codes.ResourceExhausted},
		{1, 1, codes.Internal, codes.Internal}} {
		failures.Store(c.failures)
		attempts.Store(0)
		code = c.code
		if err := m.greet(t); status.Code(err) != c.want || attempts.Load() != c.attempts {
			t.Errorf("%d failures with %s: %d attempts and %v, want %d and %s", c.failures, c.code,
				attempts.Load(), err, c.attempts, c.want)
		}
	}
}

// testTimeoutsGRPC: a call whose time is up is DEADLINE_EXCEEDED, which clients do not repeat as they do
// UNAVAILABLE; and a try whose time is up is tried again if the policy names that status.
func (m *callerMesh) testTimeoutsGRPC(t *testing.T) {
	m.Apply(t, to("MeshTimeout", "greeter", "default: {http: {requestTimeout: 300ms}}"))
	m.Apply(t, to("MeshRetry", "greeter", "default: {grpc: {numRetries: 0}}"))
	hang(t, m.greeter.App, 1000)
	if err := m.greet(t); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the call ended with %v", err)
	}
	m.Apply(t, to("MeshTimeout", "greeter", "default: {http: {requestTimeout: 10s}}"))
	m.Apply(t, to("MeshRetry", "greeter", "default: {grpc: {numRetries: 2, perTryTimeout: 200ms, "+
		"retryOn: [DeadlineExceeded, Unavailable], backOff: {baseInterval: 1ms, maxInterval: 2ms}}}"))
	var tries atomic.Int64
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	m.greeter.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) <= 2 {
			<-r.Context().Done()
			return
		}
		s.ServeHTTP(w, r)
	})
	if err := m.greet(t); err != nil || tries.Load() != 3 {
		t.Errorf("two tries that hang: %d tries, %v", tries.Load(), err)
	}
}

// testRetryTCP: connections that an instance does not take go to another.
func (m *callerMesh) testRetryTCP(t *testing.T) {
	gone := m.Add(meshtest.Spec{Zone: us, Name: "db-gone", Service: "db", Protocol: "tcp", Bare: true})
	defer gone.Remove(t)
	gone.Stop()
	m.Apply(t, to("MeshCircuitBreaker", "db", noEjection))
	m.Apply(t, to("MeshRetry", "db", "default: {tcp: {maxConnectAttempt: 1}}"))
	if got := m.connections(40); got[""] != 20 {
		t.Errorf("one attempt, and one of two instances is gone: %v", got)
	}
	m.Apply(t, to("MeshRetry", "db", "default: {tcp: {maxConnectAttempt: 4}}"))
	if got := m.connections(40); got["db"] != 40 {
		t.Errorf("four attempts: %v", got)
	}
}

// hang does not answer the first n requests, until the test ends.
func hang(t *testing.T, a *meshtest.App, n int64) *atomic.Int64 {
	var seen atomic.Int64
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if seen.Add(1) > n {
			a.Echo(w, r)
			return
		}
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	})
	return &seen
}

func (m *callerMesh) testPerTry(t *testing.T) {
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 2, perTryTimeout: 200ms, retryOn: [5xx]}}"))
	seen := hang(t, m.next.App, 2)
	if r := m.web.Get("api-next"); r.Status != 200 || seen.Load() != 3 || r.Took < 300*time.Millisecond {
		t.Errorf("two attempts that hang: %d attempts, %v", seen.Load(), r)
	}
}

func (m *callerMesh) testRequestTimeout(t *testing.T) {
	m.Apply(t, to("MeshTimeout", "api-next", "default: {http: {requestTimeout: 300ms}}"))
	m.Apply(t, to("MeshRetry", "api-next",
		"default: {http: {numRetries: 20, perTryTimeout: 100ms, retryOn: [5xx], backOff: "+
			"{baseInterval: 1ms, "+
			"maxInterval: 2ms}}}"))
	seen := hang(t, m.next.App, 1000)
	if r := m.web.Get("api-next"); r.Status != 504 || r.Took < 200*time.Millisecond ||
		r.Took > 3*time.Second || seen.Load() < 2 || seen.Load() > 4 {
		t.Errorf("the whole takes 300 ms, each try 100 ms: %d attempts, %v", seen.Load(), r)
	}
	if r := m.web.Get("api"); r.Status != 200 {
		t.Errorf("another destination: %v", r)
	}
}

// testStreamTimeouts: answers that have begun and stall, or go on for too long, are cut.
func (m *callerMesh) testStreamTimeouts(t *testing.T) {
	for name, c := range map[string]struct {
		conf string
		busy bool
	}{
		"idle": {"streamIdleTimeout: 300ms", false},
		"long": {"maxStreamDuration: 300ms", true},
	} {
		m.Apply(t, to("MeshTimeout", "api-next", "default: {http: {requestTimeout: 0s, "+c.conf+"}}"))
		ended := make(chan struct{})
		m.next.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for first := true; ; first = false {
				if first || c.busy {
					_, _ = io.WriteString(w, "more\n")
					_ = http.NewResponseController(w).Flush()
				}
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				case <-ended:
					return
				}
			}
		})
		r := m.web.Get("api-next")
		close(ended)
		if r.Err == nil || len(r.Body) == 0 || r.Took < 200*time.Millisecond || r.Took > 5*time.Second {
			t.Errorf("%s: the answer should begin and be cut: %v", name, r)
		}
	}
}

func (m *callerMesh) testHeadersTimeout(t *testing.T) {
	m.Apply(t, to("MeshTimeout", "api-next", "default: {http: {requestHeadersTimeout: 200ms}}"))
	meshtest.Eventually(t, "a request without end is answered by 408", func() (bool, string) {
		c, err := net.Dial("tcp", m.web.To("api-next"))
		if err != nil {
			return false, err.Error()
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\n"); err != nil {
			return false, err.Error()
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		return line == "HTTP/1.1 408 Request Timeout\r\n", fmt.Sprintf("%q %v", line, err)
	})
}

// testIdleTimeout: a connection on which nothing moves is closed.
func (m *callerMesh) testIdleTimeout(t *testing.T) {
	m.Apply(t, to("MeshTimeout", "db", "default: {idleTimeout: 300ms}"))
	c, err := net.Dial("tcp", m.web.To("db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(meshtest.Patience))
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil {
		t.Fatalf("%q %v", line, err)
	}
	began := time.Now()
	if _, err := r.ReadByte(); err == nil || time.Since(began) < 150*time.Millisecond ||
		time.Since(began) > 10*time.Second {
		t.Errorf("closed after %s: %v", time.Since(began), err)
	}
}

// testConnectionTimeout: an instance whose backlog is full answers no attempt to connect.
func (m *callerMesh) testConnectionTimeout(t *testing.T) {
	full := m.Add(meshtest.Spec{Zone: us, Name: "full", Service: "api-next", Bare: true})
	defer full.Remove(t)
	full.StopAnswering(t)
	m.Apply(t, to("MeshCircuitBreaker", "api-next", noEjection))
	m.Apply(t, to("MeshTimeout", "api-next", "default: {connectionTimeout: 300ms}"))
	m.Apply(t, to("MeshRetry", "api-next", noRetries))
	// Every other request meets the instance.
	meshtest.Eventually(t, "an attempt to connect ends after 300 ms", func() (bool, string) {
		r := m.web.Get("api-next")
		return r.Status == 503 && strings.Contains(string(r.Body), "timeout") &&
			r.Took > 150*time.Millisecond && r.Took < 3*time.Second, r.String()
	})
}
