package inprocess

import (
	"context"
	"crypto/tls"
	"fmt"
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
	"github.com/meridian-mesh/meridian/test/roletest"
	"github.com/meridian-mesh/meridian/xds/xdstest"
	"github.com/meridian-mesh/meridian/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

// world is a global and zones.
type world struct {
	t       *testing.T
	ctx     context.Context
	g       *roletest.Part
	global  *global.Global
	zones   map[string]*roletest.Part
	running map[string]*zone.Zone
}

func newWorld(t *testing.T, zones ...string) *world {
	t.Helper()
	return newWorldOn(t, nil, zones...)
}

// newWorldOn is a world whose global has a store, or one in memory if that is nil.
func newWorldOn(t *testing.T, st store.Store, zones ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	w := &world{
		t:       t,
		ctx:     ctx,
		g:       roletest.New(t),
		zones:   map[string]*roletest.Part{},
		running: map[string]*zone.Zone{},
	}
	if st != nil {
		w.g.Store = st
	}
	w.startGlobal()
	w.g.Ready(t, deadline)
	for _, name := range zones {
		w.zones[name] = roletest.New(t)
		w.startZone(name, w.zoneToken(name))
	}
	for _, name := range zones {
		w.zones[name].Ready(t, deadline)
	}
	return w
}

func (w *world) startGlobal() {
	w.t.Helper()
	w.global = w.g.Global(w.t, global.Config{
		Config: role.Config{
			APIAddr:          roletest.AnyPort,
			LocalhostIsAdmin: true,
			Logger:           zaptest.NewLogger(w.t).Named("global"),
		},
		KDSAddr: roletest.AnyPort,
	})
}

func (w *world) zoneToken(name string) string {
	w.t.Helper()
	return roletest.ZoneToken(w.t, w.global.Tokens(), name)
}

// startZone starts a zone with a token, and returns the token's file.
func (w *world) startZone(name, token string) string {
	w.t.Helper()
	file := roletest.File(w.t, "token", []byte(token+"\n"))
	w.running[name] = w.zones[name].Zone(w.t, zone.Config{
		Config: role.Config{
			APIAddr:          roletest.AnyPort,
			LocalhostIsAdmin: true,
			Logger:           zaptest.NewLogger(w.t).Named(name),
		},
		Name:      name,
		GlobalURL: "grpcs://" + w.g.Address(role.PortKDS),
		TokenFile: file,
		XDSAddr:   roletest.AnyPort,
		Lease:     2 * time.Second,
	})
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
	res, err := w.g.Store.Commit(w.ctx, store.Txn{Author: "test", Ops: ops})
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
	conf, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.zones[zoneName].Server.Pin}})
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
		`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":%q,
		"inbound":[{"port":9001,"tags":{"kuma.io/service":%q,"kuma.io/protocol":"http"}}],
		"transparentProxying":{"redirectPortOutbound":15001,"redirectPortInbound":15006}}}`, name, address,
		service)
	return xdstest.Config{
		Address:  w.zones[zoneName].Address(role.PortXDS),
		TLS:      w.clientTLS(zoneName),
		Token:    token,
		NodeID:   "default." + name,
		Metadata: map[string]string{"dataplane.resource": doc},
	}
}

// ingress joins a zone's ingress.
func (w *world) ingress(zoneName, address string) *proxy {
	w.t.Helper()
	doc := fmt.Sprintf(`{"type":"ZoneIngress","name":"ingress","networking":
		{"address":%q,"port":10001,"advertisedAddress":%q,"advertisedPort":10001}}`, address, address)
	return w.start(xdstest.Config{
		Address:  w.zones[zoneName].Address(role.PortXDS),
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
