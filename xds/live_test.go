package xds

import (
	"context"
	"fmt"
	"io"
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
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// anyProxy admits every stream as one proxy.
type anyProxy struct{ key mesh.Key }

func (a anyProxy) Join(context.Context, delta.Join) (delta.Member, error) { return a, nil }
func (a anyProxy) Proxy() (mesh.Key, uint64)                              { return a.key, 0 }
func (a anyProxy) Superseded() <-chan struct{}                            { return nil }
func (a anyProxy) Leave(error)                                            {}
func (a anyProxy) Configured()                                            {}

// live is a running engine with a real Envoy that follows it.
type live struct {
	*running
	// client keeps its connections, fresh does not.
	client, fresh *http.Client
}

func startLive(t *testing.T, proxy mesh.Key, rs ...*mesh.Resource) *live {
	t.Helper()
	envoy := envoytest.Binary(t)
	l := &live{
		running: start(t),
		client:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 10 * time.Second},
		fresh:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second},
	}
	t.Cleanup(l.client.CloseIdleConnections)
	l.put(rs...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(delta.ServerOptions()...)
	delta.NewServer(delta.Config{Source: l.e, Admission: anyProxy{proxy}}).Register(g)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)

	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	c := staticCluster("ads", &endpointv3.ClusterLoadAssignment{
		ClusterName: "ads",
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{
					Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
						SocketAddress: &corev3.SocketAddress{
							Address:       "127.0.0.1",
							PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
						}}}}}}}}},
	})
	h2, err := anypb.New(
		&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"] = h2
	api := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	j, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "default.web", Cluster: "web"},
		LayeredRuntime:  longExpressions(),
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{c}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: api,
			CdsConfig: api,
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,

				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "ads"},
				}}},
			},
		},
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
	return l
}

// apply writes and waits until the Envoy has it.
func (l *live) apply(rs ...*mesh.Resource) { l.settled(l.put(rs...)) }

func (l *live) delete(k mesh.Key) {
	l.t.Helper()
	res, err := l.store.Commit(l.ctx, store.Txn{Author: "test", Ops: []store.Op{store.Delete{Key: k}}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.settled(res.Revision)
}

func (l *live) settled(revision uint64) {
	l.t.Helper()
	p := l.until(func(p Progress) bool { return p.Revision >= revision && p.Acked >= revision })
	if len(p.Rejections) > 0 {
		l.t.Fatalf("rejected: %+v", p.Rejections)
	}
}

// ask is who answers a request, and whether Envoy spoke HTTP to answer it. A fresh one makes a
// connection of its own.
func (l *live) ask(port int, user string, fresh bool) (who string, http1 bool, err error) {
	req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return "", false, err
	}
	req.Header.Set("x-user", user)
	client := l.client
	if fresh {
		client = l.fresh
	}
	res, err := client.Do(req)
	if err != nil {
		return "", false, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	return string(body), res.Header.Get("server") == "envoy", err
}

func connect(port int) (string, error) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer c.Close()
	body, err := io.ReadAll(c)
	return string(body), err
}

func unusedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// instanceOf is a Dataplane whose workload answers with its name, to requests or to connections.
func instanceOf(t *testing.T, service, name, protocol string) *mesh.Resource {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if protocol == "http" {
		var p http.Protocols
		p.SetHTTP1(true)
		p.SetUnencryptedHTTP2(true)
		s := &http.Server{
			Protocols: &p,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, name)
			}),
		}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	} else {
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, name)
				_ = c.Close()
			}
		}()
	}
	return resource(mesh.KindDataplane, testZone, name,
		&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "127.0.0.1",
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port:     uint32(l.Addr().(*net.TCPAddr).Port),
				Name:     "main",
				Protocol: protocol,
				Tags:     map[string]string{mesh.TagService: service, "node": name},
			}},
		}})
}

func serviceOf(name, protocol string) *mesh.Resource {
	return resource(mesh.KindMeshService, testZone, name, &meshv1.MeshService{
		Selector: &meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: name}},
		Ports: []*meshv1.ServicePort{{Port: 8080, Name: "main", AppProtocol: protocol,
			TargetPort: &meshv1.IntOrString{Value: &meshv1.IntOrString_StringValue{StringValue: "main"}}}}})
}

// TestChangesUnderLoad: load balancing and connections of a real Envoy change by policies while it
// is under load, each change has its effect, and not one request or connection fails.
func TestChangesUnderLoad(t *testing.T) {
	web := resource(mesh.KindDataplane, testZone, "web",
		&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "127.0.0.1"}})
	n := web.Spec.(*meshv1.Dataplane).Networking
	n.Inbound = []*meshv1.Dataplane_Inbound{{
		Port: uint32(unusedPort(t)),
		Tags: map[string]string{mesh.TagService: "web", "node": "api-1"},
	}}
	ports := map[string]int{}
	for _, s := range []string{"api", "db"} {
		ports[s] = unusedPort(t)
		n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{
			Port:       uint32(ports[s]),
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: s, Port: 8080},
		})
	}
	l := startLive(t, web.Key, testMesh(""), serviceOf("api", "http"), serviceOf("db", "tcp"),
		serviceOf("db-next", "tcp"),
		instanceOf(t, "api", "api-0", "http"), instanceOf(t, "api", "api-1", "http"),
		instanceOf(t, "api", "api-2", "http"),
		instanceOf(t, "db", "db-0", "tcp"), instanceOf(t, "db-next", "db-next-0", "tcp"), web)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for { // until it serves
		_, _, err := l.ask(ports["api"], "", true)
		if err == nil {
			var got string
			if got, err = connect(ports["db"]); err == nil && got != "" {
				break
			}
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			t.Fatalf("Envoy does not serve: %v, %+v", err, l.e.Progress())
		}
	}

	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	load, stop := context.WithCancel(l.ctx)
	closes := atomic.Bool{} // connections to db are to be closed
	run := func(once func() error) {
		wg.Go(func() {
			for load.Err() == nil {
				if err := once(); err != nil && failed.Add(1) == 1 {
					t.Errorf("the first failure: %v", err)
				}
				sent.Add(1)
			}
		})
	}
	for i := range 3 {
		run(func() error { _, _, err := l.ask(ports["api"], "load", i == 0); return err })
	}
	run(func() error {
		may := closes.Load()
		got, err := connect(ports["db"])
		if err == nil && got == "" && !may && !closes.Load() {
			err = fmt.Errorf("a connection was closed")
		}
		return err
	})
	more := func() {
		for target := sent.Load() + 200; sent.Load() < target && l.ctx.Err() == nil; {
			<-tick.C
		}
	}
	who := func(users, times int) map[string]map[string]int {
		out := map[string]map[string]int{}
		for u := range users {
			user := fmt.Sprint(u)
			out[user] = map[string]int{}
			for range times {
				got, _, err := l.ask(ports["api"], user, false)
				if err != nil {
					t.Fatal(err)
				}
				out[user][got]++
			}
		}
		return out
	}
	type conf = meshv1.MeshLoadBalancingStrategy_Conf
	balance := func(c *conf) *mesh.Resource {
		return resource(mesh.KindMeshLoadBalancingStrategy, "", "s", &meshv1.MeshLoadBalancingStrategy{
			To: []*meshv1.MeshLoadBalancingStrategy_To{{
				TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
				Default:   c,
			}}})
	}
	algorithm := func(name string) *meshv1.MeshLoadBalancingStrategy_LoadBalancer {
		return &meshv1.MeshLoadBalancingStrategy_LoadBalancer{Type: name}
	}
	byUser := []*meshv1.MeshLoadBalancingStrategy_HashPolicy{{
		Type:   "Header",
		Header: &meshv1.MeshLoadBalancingStrategy_HashHeader{Name: "x-user"},
	}}
	for _, a := range []string{"LeastRequest", "RingHash", "Random", "Maglev"} {
		l.apply(balance(&conf{LoadBalancer: algorithm(a), HashPolicies: byUser}))
		more()
		for user, seen := range who(12, 8) {
			if sticky := a == "RingHash" || a == "Maglev"; sticky && len(seen) != 1 {
				t.Errorf("%s: user %s was at %v", a, user, seen)
			}
		}
	}
	near := byNode()
	near.LocalZone.AffinityTags[0].Weight = new(uint32(1_000_000))
	l.apply(balance(&conf{LocalityAwareness: near}))
	more()
	if got := who(1, 60)["0"]; got["api-1"] != 60 {
		t.Errorf("the instance on the caller's node should serve: %v", got)
	}
	l.delete(balance(nil).Key)
	more()
	if got := who(1, 60)["0"]; len(got) != 3 {
		t.Errorf("without the policy all should serve: %v", got)
	}

	tcp := func(service string, refs ...*meshv1.BackendRef) *mesh.Resource {
		return resource(mesh.KindMeshTCPRoute, "", "to-"+service,
			&meshv1.MeshTCPRoute{To: []*meshv1.MeshTCPRoute_To{{
				TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: service},

				Rules: []*meshv1.MeshTCPRoute_Rule{{Default: &meshv1.MeshTCPRoute_Conf{BackendRefs: refs}}},
			}}})
	}
	ref := func(name string, weight uint32) *meshv1.BackendRef {
		return &meshv1.BackendRef{Kind: "MeshService", Name: name, Port: new(uint32(8080)), Weight: &weight}
	}
	talk := func() map[string]int {
		out := map[string]int{}
		for range 60 {
			got, err := connect(ports["db"])
			if err != nil {
				t.Fatal(err)
			}
			out[got]++
		}
		return out
	}
	l.apply(tcp("db", ref("db", 1), ref("db-next", 1)))
	more()
	if got := talk(); got["db-0"] == 0 || got["db-next-0"] == 0 {
		t.Errorf("half and half: %v", got)
	}
	l.apply(tcp("db", ref("db", 0), ref("db-next", 1)))
	more()
	if got := talk(); got["db-next-0"] != 60 {
		t.Errorf("all to the next: %v", got)
	}
	closes.Store(true)
	l.apply(tcp("db", ref("db", 0)))
	if got := talk(); got[""] != 60 {
		t.Errorf("no backend: %v", got)
	}
	l.delete(tcp("db").Key)
	more()
	closes.Store(false)
	if got := talk(); got["db-0"] != 60 {
		t.Errorf("without the route: %v", got)
	}

	// A port of HTTP becomes one of TCP for new connections, and back.
	for _, want := range []bool{false, true} {
		if want {
			l.delete(tcp("api").Key)
		} else {
			l.apply(tcp("api", ref("api", 1)))
		}
		more()
		if _, http1, err := l.ask(ports["api"], "", true); err != nil || http1 != want {
			t.Errorf("Envoy speaks HTTP: %t, want %t, %v", http1, want, err)
		}
	}
	stop()
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), sent.Load())
	}
	t.Logf("%d requests and connections", sent.Load())
}
