package translate

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// moody answers requests with its status and its name, "/ready" with ready, and gRPC by the health
// service. It waits for each receive from hold, if there is one.
type moody struct {
	endpoint      ir.Endpoint
	status, ready atomic.Int32
	grpc          *health.Server
	entered, hold chan struct{}
}

func newMoody(t *testing.T, name string) *moody {
	t.Helper()
	m := &moody{grpc: health.NewServer(), entered: make(chan struct{}, 100)}
	m.status.Store(200)
	m.ready.Store(200)
	calls := grpc.NewServer()
	healthv1.RegisterHealthServer(calls, m.grpc)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	s := &http.Server{Protocols: &p, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			calls.ServeHTTP(w, r)
			return
		case r.URL.Path == "/ready":
			w.WriteHeader(int(m.ready.Load()))
			return
		}
		if m.hold != nil {
			m.entered <- struct{}{}
			select {
			case <-m.hold:
			case <-r.Context().Done():
				return
			}
		}
		w.WriteHeader(int(m.status.Load()))
		_, _ = io.WriteString(w, name)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	m.endpoint = ir.Endpoint{
		Address: "127.0.0.1",
		Port:    uint32(l.Addr().(*net.TCPAddr).Port),
		Weight:  1,
		Zone:    "east",
	}
	return m
}

// says is what policies, as people write them, come to for a port.
func says(t *testing.T, protocol ir.Protocol, policies ...string) compile.OutboundConfig {
	t.Helper()
	var rs []*mesh.Resource
	for _, p := range policies {
		kind, conf, _ := strings.Cut(p, ":")
		docs, err := codec.Decode([]byte("type: " + kind +
			"\nmesh: default\nname: x\nspec: {to: [{targetRef: {kind: Mesh}, default: {" + conf + "}}]}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := validate.Resource(docs[0].Resource); err != nil {
			t.Fatal(err)
		}
		rs = append(rs, docs[0].Resource)
	}
	conf, _ := compile.NewOutboundConfig(rs, policy.Destination{Key: mesh.Key{
		Kind: mesh.KindMeshService,
		Mesh: "default",
		Name: "x",
	}}, compile.Port{Protocol: protocol})
	return conf
}

// serve adds a listener for instances, under policies.
func (s *site) serve(name string, conf compile.OutboundConfig, protocol ir.Protocol, instances ...*moody) {
	s.t.Helper()
	var e ir.Endpoints
	for _, m := range instances {
		e.Endpoints = append(e.Endpoints, m.endpoint)
	}
	s.add(ir.Cluster{Name: name, Upstream: ir.HTTP2, Port: protocol, ClusterPolicy: conf.Cluster}, e)
	s.listen(name, ir.Chain{HTTP: &ir.HTTP{
		StatPrefix: name,
		Routes: &ir.RouteConfig{
			Name:   name,
			Common: conf.Route,
			Routes: []ir.Route{
				{
					Match:       ir.Match{Path: "/"},
					Backends:    []ir.Backend{{Cluster: name, Weight: 1}},
					RoutePolicy: conf.Route,
				}},
		},
	}})
}

const (
	noRetry   = "MeshRetry: http: {numRetries: 0}, grpc: {numRetries: 0}"
	noBreaker = "MeshCircuitBreaker: outlierDetection: {disabled: true}"
)

// TestResilience: what people write about retries, breakers and health checks, on real requests,
// with two instances.
func TestResilience(t *testing.T) {
	envoy := envoytest.Binary(t)
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	two := func(name string, protocol ir.Protocol, policies ...string) (good, bad *moody) {
		good, bad = newMoody(t, "good"), newMoody(t, "bad")
		s.serve(name, says(t, protocol, policies...), protocol, good, bad)
		return good, bad
	}
	// inRow says that n requests in a row are answered by want.
	inRow := func(name string, n int, want func(who string, err error) bool) bool {
		for range n {
			if !want(s.try(name, "")) {
				return false
			}
		}
		return true
	}
	onlyGood := func(who string, err error) bool { return err == nil && who == "good" }
	seesBad := func(name string) func() bool {
		return func() bool { who, err := s.try(name, ""); return err == nil && who == "bad" }
	}

	_, broken := two("breaker", ir.HTTP1, noRetry,
		"MeshCircuitBreaker: outlierDetection: {interval: 200ms, baseEjectionTime: 1s, detectors: "+
			"{totalFailures: {consecutive: 3}}}")
	broken.status.Store(500)
	_, flaky := two("retry", ir.HTTP1, "MeshRetry: http: {numRetries: 1, retryOn: [5xx]}", noBreaker)
	flaky.status.Store(500)
	_, stuck := two("per-try", ir.HTTP1,
		"MeshRetry: http: {numRetries: 1, retryOn: [5xx], perTryTimeout: 100ms}", noBreaker)
	stuck.hold = make(chan struct{})
	_, off := two("never", ir.HTTP1, noRetry, noBreaker)
	off.status.Store(503)
	_, sick := two("checked", ir.HTTP1, noRetry, noBreaker,
		"MeshHealthCheck: interval: 100ms, timeout: 1s, unhealthyThreshold: 1, http: {path: /ready}")
	sick.ready.Store(503)
	_, down := two("called", ir.GRPC, noRetry, noBreaker,
		"MeshHealthCheck: interval: 100ms, timeout: 1s, unhealthyThreshold: 1, grpc: {}")
	down.grpc.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	busy := newMoody(t, "busy")
	busy.hold = make(chan struct{})
	s.serve("limited", says(t, ir.HTTP1, noRetry, "MeshCircuitBreaker: connectionLimits: {maxRequests: 1}"),
		ir.HTTP1, busy)
	spoken := newSpoken(t, s)
	s.start(envoy)

	t.Run("a breaker opens for one of two, and closes", func(t *testing.T) {
		until(ctx, t, func() bool { return inRow("breaker", 12, onlyGood) })
		broken.status.Store(200)
		until(ctx, t, seesBad("breaker"))
	})
	t.Run("a retry goes elsewhere", func(t *testing.T) {
		if !inRow("retry", 50, onlyGood) {
			t.Error("a request failed")
		}
	})
	t.Run("a try that takes too long is given up", func(t *testing.T) {
		if !inRow("per-try", 6, onlyGood) {
			t.Error("a request failed")
		}
	})
	t.Run("no retries", func(t *testing.T) {
		until(ctx, t, func() bool { _, err := s.try("never", ""); return err != nil })
	})
	t.Run("a sick instance gets nothing until it is well", func(t *testing.T) {
		for name, heal := range map[string]func(){
			"checked": func() { sick.ready.Store(200) },
			"called":  func() { down.grpc.SetServingStatus("", healthv1.HealthCheckResponse_SERVING) },
		} {
			until(ctx, t, func() bool { return inRow(name, 12, onlyGood) })
			heal()
			until(ctx, t, seesBad(name))
		}
		until(ctx, t, func() bool { return spoken.asks(s, 12, "good") })
		spoken.sick.Store(false)
		until(ctx, t, func() bool { return spoken.asks(s, 1, "bad") })
	})
	t.Run("requests above the limit are turned away", func(t *testing.T) {
		done := make(chan string, 1)
		go func() { who, _ := s.try("limited", ""); done <- who }()
		<-busy.entered
		if _, err := s.try("limited", ""); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("the second request: %v", err)
		}
		close(busy.hold)
		if who := <-done; who != "busy" {
			t.Errorf("the first request: %q", who)
		}
	})
}

// spoken are two instances of a service of bytes: they answer "ping" with "pong", but a sick one
// does not, and anything else with their names.
type spoken struct{ sick atomic.Bool }

func newSpoken(t *testing.T, s *site) *spoken {
	t.Helper()
	out := &spoken{}
	out.sick.Store(true)
	var e ir.Endpoints
	for _, name := range []string{"good", "bad"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					var word [4]byte
					for {
						if _, err := io.ReadFull(c, word[:]); err != nil {
							return
						}
						answer := name
						if string(word[:]) == "ping" {
							answer = "pong"
							if name == "bad" && out.sick.Load() {
								answer = "ugh!"
							}
						}
						if _, err := io.WriteString(c, answer); err != nil || answer == name {
							return
						}
					}
				}()
			}
		}()
		e.Endpoints = append(e.Endpoints, ir.Endpoint{
			Address: "127.0.0.1",
			Port:    uint32(l.Addr().(*net.TCPAddr).Port),
			Weight:  1,
			Zone:    "east",
		})
	}
	// Base64 of "ping" and "pong" (12.16).
	conf := says(t, ir.TCP, noBreaker,
		"MeshHealthCheck: interval: 100ms, timeout: 300ms, unhealthyThreshold: 1, tcp: {send: cGluZw==, "+
			"receive: [cG9uZw==]}")
	s.add(ir.Cluster{Name: "spoken", Upstream: ir.TCP, Port: ir.TCP, ClusterPolicy: conf.Cluster}, e)
	s.listen("spoken", ir.Chain{
		ListenerPolicy: conf.Listener,
		TCP:            &ir.TCPProxy{StatPrefix: "spoken", Cluster: "spoken"},
	})
	return out
}

// asks says that n connections in a row are answered by want.
func (*spoken) asks(s *site, n int, want string) bool {
	for range n {
		c, err := net.Dial("tcp", s.address("spoken"))
		if err != nil {
			return false
		}
		_, _ = io.WriteString(c, "who?")
		got, _ := io.ReadAll(c)
		_ = c.Close()
		if string(got) != want {
			return false
		}
	}
	return true
}
