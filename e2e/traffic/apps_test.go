package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// seen is a request as a program saw it: the body of its answers.
type seen struct {
	App, Path, Query, Method, Host string
	Headers                        http.Header
}

func parseSeen(body []byte) (seen, bool) {
	var s seen
	err := json.Unmarshal(body, &s)
	return s, err == nil && s.App != ""
}

// app is the program of one workload: HTTP, TCP (it says its name and echoes) and gRPC (the health service).
type app struct {
	name   string
	health *health.Server

	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request) bool // guarded by mu: false goes on with the usual answer
	// requests counts all but those to /health; last is the newest of them.
	requests atomic.Int64
	last     atomic.Pointer[seen]
	checks   atomic.Int64
	// calls counts those of gRPC, but for the checks of policies.
	calls   atomic.Int64
	healthy atomic.Bool
	// closed makes TCP connections end at once.
	closed atomic.Bool
}

// behave sets what the program does until the test ends; f returns true if it has answered.
func (a *app) behave(t *testing.T, f func(w http.ResponseWriter, r *http.Request) bool) {
	a.set(f)
	t.Cleanup(func() { a.set(nil) })
}

func (a *app) set(f func(w http.ResponseWriter, r *http.Request) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// fails answers every request with a status.
func fails(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true }
}

// slow answers after a while.
func slow(d time.Duration) func(http.ResponseWriter, *http.Request) bool {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		return false
	}
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		a.checks.Add(1)
		if !a.healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	s := seen{App: a.name, Path: r.URL.Path, Query: r.URL.RawQuery, Method: r.Method, Host: r.Host, Headers: r.Header}
	a.last.Store(&s)
	a.requests.Add(1)
	a.mu.Lock()
	f := a.answer
	a.mu.Unlock()
	if f != nil && f(w, r) {
		return
	}
	w.Header().Set("X-App", a.name)
	_ = json.NewEncoder(w).Encode(s)
}

// serve runs a program at an address until the world ends.
func (w *world) serve(name, address string) *app {
	w.t.Helper()
	a := &app{name: name, health: health.NewServer()}
	a.healthy.Store(true)
	listen := func(port int) net.Listener {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("%s:%d", address, port))
		if err != nil {
			w.t.Fatal(err)
		}
		return l
	}
	var running sync.WaitGroup
	web := &http.Server{Handler: a, ReadHeaderTimeout: 5 * time.Second}
	l := listen(appHTTP)
	running.Go(func() { _ = web.Serve(l) })
	rpc := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if q, ok := req.(*healthv1.HealthCheckRequest); ok && q.GetService() == "" { // not those of a policy
			a.calls.Add(1)
		}
		return handle(ctx, req)
	}))
	healthv1.RegisterHealthServer(rpc, a.health)
	g := listen(appGRPC)
	running.Go(func() { _ = rpc.Serve(g) })
	raw := listen(appTCP)
	running.Go(func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				if a.closed.Load() {
					return
				}
				_, _ = fmt.Fprintf(c, "%s\n", name)
				_, _ = io.Copy(c, c)
			})
		}
	})
	w.t.Cleanup(func() {
		_ = web.Close()
		rpc.Stop()
		_ = raw.Close()
		running.Wait()
	})
	w.apps[name] = a
	return a
}
