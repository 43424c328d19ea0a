package inprocess

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/xds/xdstest"
	"github.com/meridian-mesh/meridian/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// part is a control plane that can be stopped and started again on its store.
type part struct {
	store  store.Store
	server *servercert.Server
	// addresses are kept over restarts.
	addresses map[string]string
	stop      func()
}

func newPart(t *testing.T) *part {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	server, err := servercert.LoadOrCreate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return &part{store: st, server: server, addresses: map[string]string{}}
}

func (p *part) address(name string) string {
	if a := p.addresses[name]; a != "" {
		return a
	}
	return "127.0.0.1:0"
}

type runner interface {
	Listen(ctx context.Context) error
	Addresses() map[string]string
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// run starts a control plane; it need not become ready.
func (p *part) run(t *testing.T, ctx context.Context, r runner) {
	t.Helper()
	if err := r.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	p.addresses = r.Addresses()
	runCtx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(runCtx) }()
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(p.stop)
}

// world is a global and zones.
type world struct {
	t       *testing.T
	ctx     context.Context
	g       *part
	global  *global.Global
	zones   map[string]*part
	running map[string]*zone.Zone
}

func newWorld(t *testing.T, zones ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, g: newPart(t), zones: map[string]*part{}, running: map[string]*zone.Zone{}}
	w.startGlobal()
	w.ready(w.global)
	for _, name := range zones {
		w.zones[name] = newPart(t)
		w.startZone(name, w.zoneToken(name))
	}
	for _, name := range zones {
		w.ready(w.running[name])
	}
	return w
}

func (w *world) ready(r runner) {
	w.t.Helper()
	select {
	case <-r.Ready():
	case <-w.ctx.Done():
		w.t.Fatal("not ready in time")
	}
}

func (w *world) startGlobal() {
	w.t.Helper()
	g, err := global.New(global.Config{
		Config: role.Config{
			Store:            w.g.store,
			Server:           w.g.server,
			Instance:         "global",
			APIAddr:          w.g.address(role.PortAPI),
			LocalhostIsAdmin: true,
			Logger:           zaptest.NewLogger(w.t).Named("global"),
		},
		KDSAddr: w.g.address(role.PortKDS),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.global = g
	w.g.run(w.t, w.ctx, g)
}

func (w *world) zoneToken(name string) string {
	w.t.Helper()
	token, err := w.global.Tokens().IssueZone(w.ctx, tokens.ZoneClaims{
		Zone:  name,
		Scope: []string{"cp", "ingress"},
	}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// startZone starts a zone with a token, and returns the token's file.
func (w *world) startZone(name, token string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	p := w.zones[name]
	z, err := zone.New(zone.Config{
		Config: role.Config{
			Store:            p.store,
			Server:           p.server,
			Instance:         name,
			APIAddr:          p.address(role.PortAPI),
			LocalhostIsAdmin: true,
			Logger:           zaptest.NewLogger(w.t).Named(name),
		},
		Name:      name,
		GlobalURL: "grpcs://" + w.g.addresses[role.PortKDS],
		TokenFile: file,
		XDSAddr:   p.address(role.PortXDS),
		Lease:     2 * time.Second,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.running[name] = z
	p.run(w.t, w.ctx, z)
	return file
}

// with is the world in a subtest.
func (w *world) with(t *testing.T) *world {
	c := *w
	c.t = t
	return &c
}

// poll waits for something that nothing announces.
func (w *world) poll(what string, f func() bool) {
	w.t.Helper()
	for !f() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.ctx.Done():
			w.t.Fatalf("not %s in time", what)
		}
	}
}

func (w *world) apply(rs ...*mesh.Resource) uint64 {
	w.t.Helper()
	var ops []store.Op
	for _, r := range rs {
		ops = append(ops, store.Put{Resource: r})
	}
	res, err := w.g.store.Commit(w.ctx, store.Txn{Actor: "test", Ops: ops})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Revision
}

// settled waits until all proxies of all zones have a revision of global.
func (w *world) settled(revision uint64) {
	w.t.Helper()
	if got := w.global.Wait(w.ctx, revision); !got.GetComplete() {
		w.t.Fatalf("revision %d did not reach everybody: %v", revision, got)
	}
}

// eventually waits until f is true of global's replica.
func (w *world) eventually(what string, f func() bool) {
	w.t.Helper()
	sub := w.global.Replica().Subscribe()
	defer sub.Close()
	for {
		if _, err := sub.Next(w.ctx); err != nil {
			w.t.Fatalf("%s: %v", what, err)
		}
		if f() {
			return
		}
	}
}

// proxy is a stand-in that can be cut.
type proxy struct {
	*xdstest.Client
	cut func()
}

func (w *world) clientTLS(zoneName string) *tls.Config {
	w.t.Helper()
	conf, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.zones[zoneName].server.Pin}})
	if err != nil {
		w.t.Fatal(err)
	}
	return conf
}

// sidecar joins a Dataplane with a token that global issued.
func (w *world) sidecar(zoneName, name, service, address string) *proxy {
	w.t.Helper()
	return w.start(w.config(zoneName, name, service, address))
}

// config of a sidecar's stand-in.
func (w *world) config(zoneName, name, service, address string) xdstest.Config {
	w.t.Helper()
	token, err := w.global.Tokens().IssueDataplane(w.ctx, tokens.DataplaneClaims{
		Mesh: "default",
		Name: name,
	}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	doc := fmt.Sprintf(
		`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":%q,"inbound":[{"port":9001,"tags":{"kuma.io/service":%q,"kuma.io/protocol":"http"}}],
		"transparentProxying":{"redirectPortOutbound":15001,"redirectPortInbound":15006}}}`, name, address,
		service)
	return xdstest.Config{
		Address:  w.zones[zoneName].addresses[role.PortXDS],
		TLS:      w.clientTLS(zoneName),
		Token:    token,
		NodeID:   "default." + name,
		Metadata: map[string]string{"dataplane.resource": doc},
	}
}

// ingress joins a zone's ingress.
func (w *world) ingress(zoneName, address string) *proxy {
	w.t.Helper()
	doc := fmt.Sprintf(
		`{"type":"ZoneIngress","name":"ingress","networking":{"address":%q,"port":10001,"advertisedAddress":%q,"advertisedPort":10001}}`, address, address)
	return w.start(xdstest.Config{
		Address:  w.zones[zoneName].addresses[role.PortXDS],
		TLS:      w.clientTLS(zoneName),
		Token:    w.zoneToken(zoneName),
		NodeID:   ".ingress",
		Metadata: map[string]string{"dataplane.resource": doc, "dataplane.proxyType": "ingress"},
	})
}

func (w *world) start(c xdstest.Config) *proxy {
	p := &proxy{Client: xdstest.New(c)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := p.Run(ctx); err != nil && ctx.Err() == nil {
				w.t.Logf("%s: stream ended: %v", c.NodeID, err)
			}
			t := time.NewTimer(50 * time.Millisecond)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}()
	p.cut = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(p.cut)
	return p
}

const (
	eds      = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// endpoints of a cluster as the proxy has them: "address priority health", sorted.
func endpoints(s *xdstest.State, cluster string) []string {
	r, ok := s.Resources[eds][cluster]
	if !ok {
		return nil
	}
	cla := &endpointv3.ClusterLoadAssignment{}
	var a anypb.Any
	if err := proto.Unmarshal(r.Body, &a); err != nil || a.UnmarshalTo(cla) != nil {
		if err := proto.Unmarshal(r.Body, cla); err != nil {
			return []string{err.Error()}
		}
	}
	out := []string{}
	for _, l := range cla.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			health := "healthy"
			if h := e.GetHealthStatus(); h != corev3.HealthStatus_UNKNOWN &&
				h != corev3.HealthStatus_HEALTHY {
				health = strings.ToLower(h.String())
			}
			sock := e.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out,
				fmt.Sprintf("%s:%d %d %s", sock.GetAddress(), sock.GetPortValue(), l.GetPriority(), health))
		}
	}
	slices.Sort(out)
	return out
}

func (w *world) waitEndpoints(p *proxy, cluster string, want ...string) {
	w.t.Helper()
	err := p.Wait(w.ctx, func(s *xdstest.State) bool { return slices.Equal(endpoints(s, cluster), want) })
	if err != nil {
		p.View(func(s *xdstest.State) {
			var names []string
			for n := range s.Resources[eds] {
				names = append(names, n)
			}
			w.t.Fatalf("endpoints of %s: %q, want %q (%v); there are %q", cluster, endpoints(s, cluster),
				want, err, names)
		})
	}
}

func multiZone(name, service string) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: name},
		Spec: &meshv1.MeshMultiZoneService{
			Selector: &meshv1.MeshMultiZoneService_Selector{
				MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{
					MatchLabels: map[string]string{mesh.LabelDisplayName: service}}},
			Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 9001, AppProtocol: "http"}},
		},
	}
}

func mtls() *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"},
		Spec: &meshv1.Mesh{
			Mtls: &meshv1.Mesh_Mtls{
				EnabledBackend: "ca",
				Backends:       []*meshv1.Mesh_Backend{{Name: "ca", Type: "builtin"}},
			}},
	}
}
