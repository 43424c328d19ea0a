package translate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// instance is a workload that can die at once.
type instance struct {
	server *http.Server
	addr   *net.TCPAddr
	served atomic.Int64
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{addr: l.Addr().(*net.TCPAddr)}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	i.server = &http.Server{
		Protocols: &p,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			i.served.Add(1)
			// Requests take a moment, so that some are in flight when the instance dies.
			select {
			case <-time.After(2 * time.Millisecond):
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, "ok")
		}),
	}
	go func() { _ = i.server.Serve(l) }()
	t.Cleanup(func() { _ = i.server.Close() })
	return i
}

func freePort(t *testing.T) int {
	t.Helper()
	// Below the range from which the system takes ports for connections: one of those could take it
	// before Envoy binds it.
	for range 100 {
		port := 11000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port found")
	return 0
}

// TestFailover: with the clusters and routes as they are, no request fails when instances die under
// load, one after the other, until only the other zone is left, and none when they come to life
// there alone.
func TestFailover(t *testing.T) {
	envoy := envoytest.Binary(t)
	near := []*instance{newInstance(t), newInstance(t), newInstance(t)}
	far := []*instance{newInstance(t), newInstance(t)}
	e := ir.Endpoints{Cluster: "backend"}
	for _, i := range near {
		e.Endpoints = append(e.Endpoints, ir.Endpoint{
			Address: "127.0.0.1",
			Port:    uint32(i.addr.Port),
			Weight:  1,
			Zone:    "east",
		})
	}
	for _, i := range far {
		e.Endpoints = append(e.Endpoints, ir.Endpoint{
			Address:  "127.0.0.1",
			Port:     uint32(i.addr.Port),
			Weight:   1,
			Zone:     "west",
			Priority: 1,
		})
	}
	port := freePort(t)
	url := startEnvoy(t, envoy, e, port)

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	until(ctx, t, func() bool { return get(client, url) == nil })

	var sent, failed, cut atomic.Int64
	var first sync.Once
	load, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for load.Err() == nil {
				sent.Add(1)
				err := get(client, url)
				if errors.As(err, new(cutError)) {
					cut.Add(1)
					continue
				}
				if err != nil {
					failed.Add(1)
					first.Do(func() { t.Errorf("a request failed: %v", err) })
				}
			}
		})
	}
	more := func(n int64) {
		target := sent.Load() + n
		until(ctx, t, func() bool { return sent.Load() >= target })
	}
	more(2000)
	if far[0].served.Load() != 0 {
		t.Errorf("the other zone served %d requests although this one is healthy", far[0].served.Load())
	}
	for _, i := range near {
		_ = i.server.Close() // all connections break at once, as when the process is killed
		more(2000)
	}
	if far[0].served.Load()+far[1].served.Load() == 0 {
		t.Error("the other zone served nothing")
	}
	_ = far[0].server.Close()
	more(2000)
	stop()
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed", n, sent.Load())
	}
	// Answers take microseconds: of the 32 callers hardly one is between its head and its end when
	// an instance dies.
	if n := cut.Load(); n > 8 {
		t.Errorf("%d answers broke off, with four instances killed", n)
	}
}

// cutError is an answer that broke off: its instance died when the caller had the beginning. No
// proxy can mend that.
type cutError struct{ error }

func get(c *http.Client, url string) error {
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return cutError{err}
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	return nil
}

func until(ctx context.Context, t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("timed out")
		}
	}
}

// startEnvoy serves the endpoints on port through our cluster and routes, and gives the URL.
func startEnvoy(t *testing.T, envoy string, e ir.Endpoints, port int) string {
	t.Helper()
	conf, _ := compile.NewOutboundConfig(nil, policy.Destination{}, compile.Port{Protocol: ir.HTTP1})
	c, err := Cluster(ir.Cluster{
		Name:          e.Cluster,
		Type:          ir.ClusterEDS,
		Upstream:      ir.HTTP2,
		Port:          ir.HTTP1,
		Keepalive:     true,
		ClusterPolicy: conf.Cluster,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.EdsClusterConfig = nil
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.LoadAssignment = Endpoints(e)
	l, err := Listener(ir.Listener{
		Name:    "out",
		Address: "127.0.0.1",
		Port:    uint32(port),
		Chains: []ir.Chain{{HTTP: &ir.HTTP{
			StatPrefix: "out",
			Routes: &ir.RouteConfig{
				Name:   "out",
				Common: conf.Route,
				Routes: []ir.Route{{Match: ir.Match{Path: "/"},
					Backends: []ir.Backend{{Cluster: e.Cluster, Weight: 1}}, RoutePolicy: conf.Route}},
			},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	runEnvoy(t, envoy, &bootstrapv3.Bootstrap_StaticResources{
		Clusters:  []*clusterv3.Cluster{c},
		Listeners: []*listenerv3.Listener{l},
	})
	return fmt.Sprintf("http://127.0.0.1:%d/", port)
}

// runEnvoy starts an Envoy that the test stops.
func runEnvoy(t *testing.T, envoy string, resources *bootstrapv3.Bootstrap_StaticResources) {
	t.Helper()
	j, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "test", Cluster: "test"},
		StaticResources: resources,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, j, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(envoy, "-c", path, "-l", "error", "--concurrency", "2", "--use-dynamic-base-id")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
