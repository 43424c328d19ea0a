package delta_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a configuration in short: services with a content number each. A service is a cluster,
// its endpoints, a listener and a route of one name, and a secret for all.
type world struct {
	clusters, endpoints, listeners, routes map[string]int
	secret                                 int
}

func services(names ...string) world {
	w := world{
		clusters:  map[string]int{},
		endpoints: map[string]int{},
		listeners: map[string]int{},
		routes:    map[string]int{},
		secret:    1,
	}
	for _, n := range names {
		w.clusters[n], w.endpoints[n], w.listeners[n], w.routes[n] = 1, 1, 1, 1
	}
	return w
}

func (w world) clone() world {
	return world{
		clusters:  maps.Clone(w.clusters),
		endpoints: maps.Clone(w.endpoints),
		listeners: maps.Clone(w.listeners),
		routes:    maps.Clone(w.routes),
		secret:    w.secret,
	}
}

func (w world) without(name string) world {
	w = w.clone()
	for _, m := range []map[string]int{w.clusters, w.endpoints, w.listeners, w.routes} {
		delete(m, name)
	}
	return w
}

func encode(t testing.TB, typ delta.Type, name string, m proto.Message) *delta.Resource {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return delta.NewResource(typ, name, b, mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name})
}

func packed(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var ads = &corev3.ConfigSource{
	ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

func (w world) resources(t testing.TB) []*delta.Resource {
	t.Helper()
	out := []*delta.Resource{encode(t, delta.TypeSecret, "identity",
		&tlsv3.Secret{Name: fmt.Sprint("identity", w.secret)})}
	for n, v := range w.clusters {
		out = append(out, encode(t, delta.TypeCluster, n, &clusterv3.Cluster{
			Name:                 n,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			ConnectTimeout:       durationpb.New(time.Duration(v) * time.Second),
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads},
			TransportSocket: &corev3.TransportSocket{
				Name: "tls",
				ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t,
					&tlsv3.UpstreamTlsContext{
						CommonTlsContext: &tlsv3.CommonTlsContext{
							TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
								Name:      "identity",
								SdsConfig: ads,
							}}}})},
			},
		}))
	}
	for n, v := range w.endpoints {
		out = append(out, encode(t, delta.TypeEndpoint, n, &endpointv3.ClusterLoadAssignment{
			ClusterName: n,

			Policy: &endpointv3.ClusterLoadAssignment_Policy{
				EndpointStaleAfter: durationpb.New(time.Duration(v) * time.Second),
			},
		}))
	}
	for n, v := range w.listeners {
		out = append(out, encode(t, delta.TypeListener, n, &listenerv3.Listener{
			Name:       n,
			StatPrefix: fmt.Sprint(v),
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
				Name: "http",
				ConfigType: &listenerv3.Filter_TypedConfig{
					TypedConfig: packed(t, &hcmv3.HttpConnectionManager{
						RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
							ConfigSource:    ads,
							RouteConfigName: n,
						}},
					}),
				},
			}}}},
		}))
	}
	for n, v := range w.routes {
		out = append(out, encode(t, delta.TypeRoute, n, &routev3.RouteConfiguration{
			Name: n,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    fmt.Sprint(v),
				Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},

					Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: n},
					}},
				}},
			}},
		}))
	}
	return out
}

// engine is a Source that a test sets by hand.
type engine struct {
	mu       sync.Mutex
	table    *delta.Table
	revision uint64
	changed  chan struct{}
	watches  []*watch
	// taking, if set, is called by Next.
	taking func(*watch)
}

type watch struct {
	engine *engine
	seen   *delta.Table

	opening    delta.OpenRequest
	mu         sync.Mutex
	wanted     []string
	calls      uint64
	told       uint64
	answered   uint64
	answers    int // calls of Ack
	rejections []delta.Rejection
	changed    chan struct{}
	closed     bool
}

func newEngine() *engine { return &engine{changed: make(chan struct{})} }

func (e *engine) set(t testing.TB, w world) uint64 {
	t.Helper()
	return e.setTable(&delta.Table{Segments: []*delta.Segment{delta.NewSegment(w.resources(t))}})
}

func (e *engine) setTable(table *delta.Table) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.replace(table)
	for _, f := range e.watches {
		f.opening.Wake(false)
	}
	return e.revision
}

// replace is setTable without waking anyone; mu is held.
func (e *engine) replace(table *delta.Table) {
	e.table = table
	e.revision++
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *engine) Open(o delta.OpenRequest) delta.Watch {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := &watch{engine: e, opening: o, changed: make(chan struct{})}
	e.watches = append(e.watches, f)
	close(e.changed)
	e.changed = make(chan struct{})
	if e.table != nil {
		o.Wake(false)
	}
	return f
}

func (f *watch) Next() (delta.Update, bool, error) {
	f.engine.mu.Lock()
	table, revision, taking := f.engine.table, f.engine.revision, f.engine.taking
	f.engine.mu.Unlock()
	if taking != nil {
		taking(f)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if table == nil || table == f.seen && f.calls == f.told {
		return delta.Update{}, false, nil
	}
	f.seen, f.told = table, f.calls
	u := delta.Update{
		Table:      table,
		Revision:   revision,
		Committed:  time.Now(),
		Subscribed: f.calls,
	}
	return u, true, nil
}

func (f *watch) Ack(revision uint64, rejections []delta.Rejection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered, f.rejections = revision, rejections
	f.answers++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *watch) Subscribe(names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = names
	f.calls++
	f.opening.Wake(true)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *watch) Close() { f.mu.Lock(); f.closed = true; f.mu.Unlock() }

// wait blocks until the newest watch's answers satisfy ok.
func (e *engine) wait(t testing.TB, what string,
	ok func(answered uint64, rejections []delta.Rejection) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		e.mu.Lock()
		var f *watch
		opened := e.changed
		if len(e.watches) > 0 {
			f = e.watches[len(e.watches)-1]
		}
		e.mu.Unlock()
		if f != nil {
			f.mu.Lock()
			done := ok(f.answered, f.rejections)
			last := fmt.Sprintf("answered %d, rejections %v", f.answered, f.rejections)
			changed := f.changed
			f.mu.Unlock()
			if done {
				return
			}
			select {
			case <-changed:
				continue
			case <-opened:
				continue
			case <-ctx.Done():
				t.Fatalf("%s: %s", what, last)
			}
		}
		select {
		case <-opened:
		case <-ctx.Done():
			t.Fatalf("%s: no watch", what)
		}
	}
}

func (e *engine) answered(t testing.TB, revision uint64) {
	t.Helper()
	e.wait(t, fmt.Sprintf("revision %d answered without rejections", revision),
		func(a uint64, r []delta.Rejection) bool { return a >= revision && len(r) == 0 })
}

const wireTimeout = 10 * time.Second

// watch blocks until the newest watch satisfies ok.
func (e *engine) watch(t testing.TB, ok func(*watch) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wireTimeout)
	defer cancel()
	for {
		e.mu.Lock()
		var f *watch
		changed := e.changed
		if n := len(e.watches); n > 0 {
			f = e.watches[n-1]
		}
		e.mu.Unlock()
		if f != nil {
			f.mu.Lock()
			done := ok(f)
			changed = f.changed
			f.mu.Unlock()
			if done {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the watch is not as wanted")
		}
	}
}

// gate is an Admission that lets in everyone with the token "good".
type gate struct {
	mu      sync.Mutex
	joins   []delta.Join
	members []*member
	left    chan error
}

type member struct {
	gate       *gate
	superseded chan struct{}
}

func (g *gate) Join(_ context.Context, j delta.Join) (delta.Member, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joins = append(g.joins, j)
	if j.Token != "good" {
		return nil, status.Error(codes.Unauthenticated, "token is of another mesh")
	}
	m := &member{gate: g, superseded: make(chan struct{})}
	g.members = append(g.members, m)
	return m, nil
}

func (m *member) Proxy() (mesh.Key, uint64) {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Name: "web"}, 0
}
func (m *member) Superseded() <-chan struct{} { return m.superseded }
func (m *member) Configured()                 {}
func (m *member) Leave(cause error)           { m.gate.left <- cause }

// rig is a server on a real socket over TLS.
type rig struct {
	engine   *engine
	server   *delta.Server
	gate     *gate
	registry *prometheus.Registry
	address  string
	roots    *x509.CertPool
	ca       []byte
}

func newRig(t testing.TB, change ...func(*delta.Config)) *rig {
	t.Helper()
	return newRigWith(t, nil, change...)
}

// newRigWith is newRig on a gRPC server with more options.
func newRigWith(t testing.TB, options []grpc.ServerOption, change ...func(*delta.Config)) *rig {
	t.Helper()
	r := &rig{
		engine:   newEngine(),
		gate:     &gate{left: make(chan error, 100)},
		registry: prometheus.NewRegistry(),
		roots:    x509.NewCertPool(),
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "zone"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	r.roots.AddCert(leaf)
	r.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = listener.Addr().String()
	config := delta.Config{Source: r.engine, Admission: r.gate, Registerer: r.registry}
	for _, f := range change {
		f(&config)
	}
	server := delta.NewServer(config)
	r.server = server
	creds := credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	g := grpc.NewServer(append(append(delta.ServerOptions(), grpc.Creds(creds)), options...)...)
	server.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	return r
}

// client is a stand-in that runs until stop is called or the test ends.
type client struct {
	*xdstest.Client
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
	err    error
}

func (c *client) stop() error {
	c.cancel()
	return c.wait()
}

func (c *client) wait() error {
	c.once.Do(func() { c.err = <-c.done })
	return c.err
}

func (r *rig) config() xdstest.Config {
	return xdstest.Config{
		Address: r.address,
		TLS:     &tls.Config{RootCAs: r.roots, ServerName: "localhost", NextProtos: []string{"h2"}},
		Token:   "good",
		NodeID:  "default.web",
	}
}

func (r *rig) connect(t testing.TB, change ...func(*xdstest.Config)) *client {
	t.Helper()
	config := r.config()
	for _, f := range change {
		f(&config)
	}
	return start(t, xdstest.New(config))
}

func start(t testing.TB, c *xdstest.Client) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := &client{Client: c, cancel: cancel, done: make(chan error, 1)}
	go func() { out.done <- c.Run(ctx) }()
	t.Cleanup(func() { _ = out.stop() })
	return out
}

func (c *client) until(t testing.TB, f func(*xdstest.State) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Wait(ctx, f); err != nil {
		c.View(func(s *xdstest.State) {
			for typ, rs := range s.Resources {
				t.Logf("%s: %v, wanted %v", typ, slices.Sorted(maps.Keys(rs)), s.Subscribed[typ])
			}
			t.Logf("warming: %v", s.Warming)
		})
		t.Fatal(err)
	}
}

// holds says whether a client has exactly what a world says.
func holds(t testing.TB, w world) func(*xdstest.State) bool {
	t.Helper()
	want := map[string]map[string]string{}
	for _, r := range w.resources(t) {
		if want[r.Type.URL()] == nil {
			want[r.Type.URL()] = map[string]string{}
		}
		want[r.Type.URL()][r.Name] = r.Version
	}
	if len(w.clusters) == 0 {
		delete(want, xdstest.Secret) // no client asks for it
	}
	return func(s *xdstest.State) bool {
		for _, typ := range delta.Types {
			got := map[string]string{}
			for n, r := range s.Resources[typ.URL()] {
				got[n] = r.Version
			}
			if !maps.Equal(got, want[typ.URL()]) && len(got)+len(want[typ.URL()]) > 0 {
				return false
			}
		}
		return len(s.Warming) == 0
	}
}

// log is what a client got since it was last asked.
func (c *client) log() []string {
	var out []string
	c.View(func(s *xdstest.State) {
		out = slices.Clone(s.Log)
		s.Log = nil
	})
	return out
}

func (c *client) unbroken(t testing.TB) {
	t.Helper()
	c.View(func(s *xdstest.State) {
		if len(s.Broken) > 0 {
			t.Errorf("broken: %q", s.Broken)
		}
	})
}

// sum is the value of a counter over all its labels.
func (r *rig) sum(t testing.TB, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}
