package traffic

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

// TestHealthChecks: instances that are not well get nothing, and something again when they are.
func TestHealthChecks(t *testing.T) {
	m := startCallerMesh(t)
	t.Run("http", m.testHealthHTTP)
	t.Run("tcp", m.testHealthTCP)
	t.Run("grpc", m.testHealthGRPC)
}

const often = "interval: 100ms, timeout: 2s, unhealthyThreshold: 2, healthyThreshold: 2, "

func (m *callerMesh) testHealthHTTP(t *testing.T) {
	ill := m.api[0]
	var status, checks, marked atomic.Int64
	status.Store(200)
	for _, a := range m.api {
		a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				a.Echo(w, r)
				return
			}
			if a != ill {
				w.WriteHeader(204)
				return
			}
			checks.Add(1)
			if r.Header.Get("x-check") == "meridian" {
				marked.Add(1)
			}
			w.WriteHeader(int(status.Load()))
		})
	}
	m.Apply(t, toAPI("MeshHealthCheck",
		"default: {"+often+"http: {path: /healthz, expectedStatuses: [200, 204], requestHeadersToAdd: {set: "+
			"[{name: x-check, value: meridian}]}}}"))
	used := func(want bool) {
		t.Helper()
		meshtest.Eventually(t, fmt.Sprintf("the instance that says %d is used: %t", status.Load(), want),
			func() (bool, string) {
				got := m.get(30)
				if got["api-1"]+got["api-2"]+got["api-3"] != 30 {
					t.Errorf("a request failed: %v", got)
				}
				return (got["api-1"] == 10) == want && (got["api-1"] == 0) != want, fmt.Sprint(got)
			})
	}
	used(true)
	status.Store(503)
	used(false)
	status.Store(204)
	used(true)
	if checks.Load() < 4 || marked.Load() != checks.Load() {
		t.Errorf("%d checks, %d with the header", checks.Load(), marked.Load())
	}
}

func (m *callerMesh) testHealthTCP(t *testing.T) {
	// A second instance of db, of the test's own: it says what it likes.
	var greeting atomic.Pointer[string]
	well := "db-2\n"
	greeting.Store(&well)
	second := m.Add(meshtest.Spec{Zone: us, Name: "db-2", Service: "db", Protocol: "tcp", Bare: true})
	defer second.Remove(t)
	second.Stop()
	l, err := net.Listen("tcp", net.JoinHostPort(second.Address, strconv.Itoa(meshtest.InboundPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, *greeting.Load())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	// A greeting comes once in a connection, so each check needs a connection of its own.
	receive := base64.StdEncoding.EncodeToString([]byte("db"))
	m.Apply(t, to("MeshHealthCheck", "db",
		"default: {"+often+"reuseConnection: false, tcp: {receive: ["+receive+"]}}"))
	used := func(what string, want map[string]int) {
		t.Helper()
		meshtest.Eventually(t, what, func() (bool, string) {
			got := m.connections(10)
			return fmt.Sprint(got) == fmt.Sprint(want), fmt.Sprint(got)
		})
	}
	used("both are well", map[string]int{"db": 5, "db-2": 5})
	wrong := "no more\n"
	greeting.Store(&wrong)
	used("the one that says something else is not used", map[string]int{"db": 10})
	greeting.Store(&well)
	used("both are well again", map[string]int{"db": 5, "db-2": 5})
	m.db.Stop()
	used("the one that does not listen is not used", map[string]int{"db-2": 10})
	m.db.Start(t)
	used("both are well in the end", map[string]int{"db": 5, "db-2": 5})
}

func (m *callerMesh) testHealthGRPC(t *testing.T) {
	second := m.Add(meshtest.Spec{
		Zone:     us,
		Name:     "greeter-2",
		Service:  "greeter",
		Protocol: "grpc",
		Bare:     true,
	})
	defer second.Remove(t)
	var healths [2]*health.Server
	var calls [2]atomic.Int64
	for i, x := range []*meshtest.Workload{m.greeter, second} {
		healths[i] = health.NewServer()
		healths[i].SetServingStatus("greetings", healthpb.HealthCheckResponse_SERVING)
		s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (any, error) {
			if req.(*healthpb.HealthCheckRequest).GetService() == "" { // ours; a check asks for greetings
				calls[i].Add(1)
			}
			return next(ctx, req)
		}))
		healthpb.RegisterHealthServer(s, healths[i])
		x.Handle(t, s.ServeHTTP)
	}
	m.Apply(t, to("MeshHealthCheck", "greeter", "default: {"+often+"grpc: {serviceName: greetings}}"))
	conn, err := grpc.NewClient("passthrough:///"+m.web.To("greeter"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	used := func(what string, first, second int64) {
		t.Helper()
		meshtest.Eventually(t, what, func() (bool, string) {
			before := [2]int64{calls[0].Load(), calls[1].Load()}
			for range 10 {
				ctx, cancel := context.WithTimeout(context.Background(), meshtest.Patience)
				_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{},
					grpc.WaitForReady(true))
				cancel()
				if err != nil {
					t.Fatal(err)
				}
			}
			got := [2]int64{calls[0].Load() - before[0], calls[1].Load() - before[1]}
			return got == [2]int64{first, second}, fmt.Sprint(got)
		})
	}
	used("both are well", 5, 5)
	healths[0].SetServingStatus("greetings", healthpb.HealthCheckResponse_NOT_SERVING)
	used("the one that does not serve is not used", 0, 10)
	healths[0].SetServingStatus("greetings", healthpb.HealthCheckResponse_SERVING)
	used("both are well again", 5, 5)
}
