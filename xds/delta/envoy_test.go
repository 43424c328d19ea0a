package delta_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// real is a world that a real Envoy takes: bad is a route that it rejects.
type real struct {
	clusters, routes map[string]int
	bad              string
}

func (w real) table(t testing.TB) *delta.Table {
	t.Helper()
	forever := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: ads.ConfigSourceSpecifier,
	}
	var out []*delta.Resource
	for n, v := range w.clusters {
		local := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address:       "127.0.0.1",
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 1},
		}}}
		domains := []string{"*"}
		vhosts := []*routev3.VirtualHost{{
			Name:    fmt.Sprint("v", w.routes[n]),
			Domains: domains,
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},

				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: n},
				}},
			}},
		}}
		if n == w.bad {
			vhosts = append(vhosts, &routev3.VirtualHost{Name: "again", Domains: domains})
		}
		out = append(out,
			encode(t, delta.TypeCluster, n, &clusterv3.Cluster{
				Name:                          n,
				ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
				ConnectTimeout:                durationpb.New(1e9 * 1),
				PerConnectionBufferLimitBytes: wrapperspb.UInt32(uint32(10000 + v)),
				EdsClusterConfig:              &clusterv3.Cluster_EdsClusterConfig{EdsConfig: forever},
			}),
			encode(t, delta.TypeEndpoint, n, &endpointv3.ClusterLoadAssignment{
				ClusterName: n,
				Endpoints: []*endpointv3.LocalityLbEndpoints{{
					LbEndpoints: []*endpointv3.LbEndpoint{
						{
							HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
								Endpoint: &endpointv3.Endpoint{Address: local}}}}}},
			}),
			encode(t, delta.TypeListener, n, &listenerv3.Listener{
				Name: n,
				Address: &corev3.Address{
					Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address:       "127.0.0.1",
						PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
					}},
				},
				FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
					Name: "envoy.filters.network.http_connection_manager",
					ConfigType: &listenerv3.Filter_TypedConfig{
						TypedConfig: packed(t, &hcmv3.HttpConnectionManager{
							StatPrefix: n,
							RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
								ConfigSource:    forever,
								RouteConfigName: n,
							}},
							HttpFilters: []*hcmv3.HttpFilter{{
								Name: "envoy.filters.http.router",

								ConfigType: &hcmv3.HttpFilter_TypedConfig{
									TypedConfig: packed(t, &routerv3.Router{}),
								},
							}},
						})},
				}}}},
			}),
			encode(t, delta.TypeRoute, n, &routev3.RouteConfiguration{Name: n, VirtualHosts: vhosts}))
	}
	return &delta.Table{Segments: []*delta.Segment{delta.NewSegment(out)}}
}

// TestEnvoy proves the protocol with a real Envoy whose clusters, listeners and routes would wait
// without limit for what the server forgets to send.
func TestEnvoy(t *testing.T) {
	for _, api := range []string{"DELTA_GRPC", "GRPC"} {
		t.Run(api, func(t *testing.T) { testEnvoy(t, api) })
	}
}

func testEnvoy(t *testing.T, api string) {
	bin := envoytest.Binary(t)
	r := newRig(t)
	w := real{clusters: map[string]int{"svc_a": 1, "svc_b": 1, "svc_c": 1}, routes: map[string]int{}}
	first := r.engine.setTable(w.table(t))
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "envoy") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	socket := filepath.Join(dir, "admin.sock")
	doc, err := bootstrap.Build(bootstrap.Config{
		NodeID:      "default.web",
		ProxyType:   "dataplane",
		Host:        host,
		Port:        uint32(n),
		ServerName:  "localhost",
		CA:          r.ca,
		TokenFile:   file("token", []byte("good")),
		AdminSocket: socket,
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(doc), "DELTA_GRPC"); n != 1 {
		t.Fatalf("the bootstrap names the protocol %d times", n)
	}
	doc = []byte(strings.Replace(string(doc), "DELTA_GRPC", api, 1))
	var log strings.Builder
	cmd := exec.Command(bin, "-c", file("bootstrap.json", doc), "--use-dynamic-base-id", "--concurrency", "1",
		"--log-level", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	defer func() {
		stop()
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	warming := func(want string) {
		t.Helper()
		resp, err := (&http.Client{Transport: transport}).Get(
			"http://admin/stats?filter=^(cluster_manager.(warming|active)_clusters|" +
				"listener_manager.total_listeners_(active|warming))$")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(string(body)), " "); got != want {
			t.Errorf("Envoy says\n%s, want\n%s", got, want)
		}
	}
	all := func(clusters, listeners int) string {
		return fmt.Sprintf("cluster_manager.active_clusters: %d cluster_manager.warming_clusters: 0 "+
			"listener_manager.total_listeners_active: %d listener_manager.total_listeners_warming: 0",
			clusters, listeners)
	}
	r.engine.answered(t, first)
	r.engine.wait(t, "listeners came",
		func(uint64, []delta.Rejection) bool { return r.sum(t, "meridian_delta_push_resources_total") >= 12 })
	r.engine.answered(t, first)
	warming(all(4, 3)) // with the control plane's own cluster

	w.clusters["svc_a"]++ // replaced clusters warm until their endpoints come again
	w.clusters["svc_b"]++
	r.engine.answered(t, r.engine.setTable(w.table(t)))
	warming(all(4, 3))

	w.routes["svc_a"], w.routes["svc_b"], w.routes["svc_c"], w.bad = 2, 2, 2, "svc_b"
	rev := r.engine.setTable(w.table(t))
	r.engine.wait(t, "one route rejected", func(a uint64, rejections []delta.Rejection) bool {
		return a == rev && len(rejections) == 1 && rejections[0].Resource == "svc_b" &&
			strings.Contains(rejections[0].Reason, "wildcard domain")
	})
	w.bad = ""
	r.engine.answered(t, r.engine.setTable(w.table(t)))

	delete(w.clusters, "svc_c")
	r.engine.answered(t, r.engine.setTable(w.table(t)))
	stop()
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "[error]") {
			t.Errorf("Envoy logs %s", line)
		}
	}
}
