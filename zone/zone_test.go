package zone_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

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

const (
	zoneName = "us-east"
	wait     = 8 * time.Second
)

// world is a standalone zone that runs in this process, with stand-ins for its proxies.
type world struct {
	t      *testing.T
	ctx    context.Context
	part   *roletest.Part
	store  store.Store
	server *servercert.Server
	zone   *zone.Zone
	addr   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)

	part := roletest.New(t)
	w := &world{
		t:      t,
		ctx:    ctx,
		part:   part,
		store:  part.Store,
		server: part.Server,
	}
	w.start()
	return w
}

// start runs a zone on the world's store; again after stop.
func (w *world) start() {
	w.t.Helper()
	w.zone = w.part.Zone(w.t, zone.Config{
		Config: role.Config{
			Instance:         "test",
			APIAddr:          roletest.AnyPort,
			DiagnosticsAddr:  roletest.AnyPort,
			LocalhostIsAdmin: true,
			Logger:           zaptest.NewLogger(w.t),
		},
		Name:       zoneName,
		XDSAddr:    roletest.AnyPort,
		Lease:      1500 * time.Millisecond,
		ReturnTime: 2 * time.Second,
	})
	w.addr = w.part.Address(role.PortXDS)
	w.part.Ready(w.t, wait)
}

func (w *world) stop() { w.part.Stop() }

// proxy is a stand-in that can be cut.
type proxy struct {
	*xdstest.Client
	cut  func()
	done chan struct{}
}

func (w *world) join(name, service, address string) *proxy {
	w.t.Helper()
	token, err := w.zone.Tokens().IssueDataplane(w.ctx, tokens.DataplaneClaims{
		Mesh: "default",
		Name: name,
	}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	tls, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.server.Pin}})
	if err != nil {
		w.t.Fatal(err)
	}
	doc := fmt.Sprintf(
		`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":%q,
		"inbound":[{"port":9001,"tags":{"kuma.io/service":%q,"kuma.io/protocol":"http"}}],
		"transparentProxying":{"redirectPortOutbound":15001,"redirectPortInbound":15006}}}`,
		name, address, service)
	p := &proxy{Client: xdstest.New(xdstest.Config{
		Address:  w.addr,
		TLS:      tls,
		Token:    token,
		NodeID:   "default." + name,
		Metadata: map[string]string{"dataplane.resource": doc},
	})}
	p.run(w)
	return p
}

// run connects until cut, or again after it; a stream that ends by itself is opened again, as Envoy does.
func (p *proxy) run(w *world) {
	ctx, cancel := context.WithCancel(context.Background())
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			err := p.Run(ctx)
			if err != nil && ctx.Err() == nil {
				w.t.Logf("stream ended: %v", err)
			}
			if err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "Aborted") {
				return
			}
			t := time.NewTimer(20 * time.Millisecond)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}()
	done := p.done
	p.cut = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(p.cut)
}

const edsType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

// endpoints are address:port and health of a service's cluster, as the proxy has them; nil if it
// has no such cluster.
func endpoints(s *xdstest.State, cluster string) map[string]string {
	r, ok := s.Resources[edsType][cluster]
	if !ok {
		return nil
	}
	cla := &endpointv3.ClusterLoadAssignment{}
	var a anypb.Any
	if err := proto.Unmarshal(r.Body, &a); err != nil || a.UnmarshalTo(cla) != nil {
		if err := proto.Unmarshal(r.Body, cla); err != nil {
			return nil
		}
	}
	out := map[string]string{}
	for _, l := range cla.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			sock := e.GetEndpoint().GetAddress().GetSocketAddress()
			health := "HEALTHY"
			if e.GetHealthStatus() != corev3.HealthStatus_UNKNOWN &&
				e.GetHealthStatus() != corev3.HealthStatus_HEALTHY {
				health = e.GetHealthStatus().String()
			}
			out[fmt.Sprintf("%s:%d", sock.GetAddress(), sock.GetPortValue())] = health
		}
	}
	return out
}

func clusterOf(service string) string {
	k := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zoneName, Name: service}
	return k.KRI("9001")
}

func (w *world) waitEndpoints(p *proxy, cluster string, want map[string]string) {
	w.t.Helper()
	err := p.Wait(w.ctx, func(s *xdstest.State) bool {
		got := endpoints(s, cluster)
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
	if err != nil {
		p.View(func(s *xdstest.State) {
			var names []string
			for n := range s.Resources[edsType] {
				names = append(names, n)
			}
			w.t.Fatalf("endpoints of %s: %v, want %v (%v); clusters %v; log %v", cluster,
				endpoints(s, cluster), want, err, names, s.Log)
		})
	}
}

func TestJoinLossAndReturn(t *testing.T) {
	w := newWorld(t)
	client := w.join("client", "client", "127.0.0.9")
	a := w.join("web-1", "web", "127.0.0.1")
	w.join("web-2", "web", "127.0.0.2")
	cluster := clusterOf("web")
	const one, two = "127.0.0.1:9001", "127.0.0.2:9001"
	w.waitEndpoints(client, cluster, map[string]string{one: "HEALTHY", two: "HEALTHY"})

	began := time.Now()
	a.cut()
	w.waitEndpoints(client, cluster, map[string]string{one: "UNHEALTHY", two: "HEALTHY"})
	if took := time.Since(began); took > time.Second {
		t.Errorf("a lost proxy was unhealthy after %s, want at most 1 s", took)
	}
	w.waitEndpoints(client, cluster, map[string]string{two: "HEALTHY"})
	a.run(w)
	w.waitEndpoints(client, cluster, map[string]string{one: "HEALTHY", two: "HEALTHY"})

	client.View(func(s *xdstest.State) {
		if len(s.Broken) > 0 {
			t.Errorf("traffic would have broken: %v", s.Broken)
		}
	})
}

func TestRestartServesAndMarksNobody(t *testing.T) {
	w := newWorld(t)
	client := w.join("client", "client", "127.0.0.9")
	w.join("web-1", "web", "127.0.0.1")
	cluster := clusterOf("web")
	w.waitEndpoints(client, cluster, map[string]string{"127.0.0.1:9001": "HEALTHY"})
	w.stop()
	w.start()
	if err := client.Wait(w.ctx, func(s *xdstest.State) bool { return s.Connected >= 2 }); err != nil {
		t.Fatal(err)
	}
	client.View(func(s *xdstest.State) {
		if got := endpoints(s, cluster); got["127.0.0.1:9001"] != "HEALTHY" {
			t.Errorf("after a restart the endpoint is %v", got)
		}
	})
	if len(w.zone.Status(w.ctx).GetStore().GetReason()) > 0 {
		t.Error("the store is unwell")
	}
}

// TestMassLossWithholds: when most proxies vanish at once their endpoints stay as they are, and the
// status says so.
func TestMassLossWithholds(t *testing.T) {
	w := newWorld(t)
	client := w.join("client", "client", "127.0.0.9")
	var all []*proxy
	want := map[string]string{}
	for i := range 4 {
		address := fmt.Sprintf("127.0.0.%d", i+1)
		all = append(all, w.join(fmt.Sprintf("web-%d", i), "web", address))
		want[address+":9001"] = "HEALTHY"
	}
	w.waitEndpoints(client, clusterOf("web"), want)
	for _, p := range all {
		p.cut()
	}
	for w.zone.Status(w.ctx).GetProxies().GetWithheld() != 4 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.ctx.Done():
			t.Fatalf("status %v", w.zone.Status(w.ctx))
		}
	}
	client.View(func(s *xdstest.State) {
		if got := endpoints(s, clusterOf("web")); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("endpoints %v, want %v", got, want)
		}
	})
	// They return but for one, which counts by itself then.
	for _, p := range all[1:] {
		p.run(w)
	}
	want["127.0.0.1:9001"] = "UNHEALTHY"
	w.waitEndpoints(client, clusterOf("web"), want)
}

func TestIdentityBeforeConfiguration(t *testing.T) {
	w := newWorld(t)
	_, err := w.store.Commit(w.ctx, store.Txn{Ops: []store.Op{store.Put{Resource: &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"},
		Spec: &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{
			EnabledBackend: "ca",
			Backends:       []*meshv1.Mesh_Backend{{Name: "ca", Type: "builtin"}},
		}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	p := w.join("web-1", "web", "127.0.0.1")
	const sds = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	if err := p.Wait(w.ctx, func(s *xdstest.State) bool {
		_, id := s.Resources[sds]["system_mtls_identity_default"]
		_, ca := s.Resources[sds]["system_mtls_ca_default"]
		return id && ca
	}); err != nil {
		p.View(func(s *xdstest.State) { t.Fatalf("%v: log %v", err, s.Log) })
	}
}

func TestWaitAndStatus(t *testing.T) {
	w := newWorld(t)
	p := w.join("web-1", "web", "127.0.0.1")
	w.waitEndpoints(p, clusterOf("web"), map[string]string{"127.0.0.1:9001": "HEALTHY"})
	res, err := w.store.Commit(w.ctx, store.Txn{Ops: []store.Op{store.Put{Resource: &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"},
		Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{Kind: "Mesh"}, To: []*meshv1.MeshTimeout_To{{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"}, Default: &meshv1.MeshTimeout_Conf{}}}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	got := w.zone.Wait(w.ctx, res.Revision)
	if !got.GetComplete() {
		t.Fatalf("Wait = %v", got)
	}
	s := w.zone.Status(w.ctx)
	if s.GetProxies().GetOnline() != 1 || s.GetProxies().GetTotal() != 1 || s.GetRole() != "zone" {
		t.Errorf("status %v", s)
	}
}

// TestWaitTellsWhoOwesAnAnswer: a proxy that stops reading is named, and the wait ends when the
// caller's timeout does.
func TestWaitTellsWhoOwesAnAnswer(t *testing.T) {
	w := newWorld(t)
	p := w.join("web-1", "web", "127.0.0.1")
	w.waitEndpoints(p, clusterOf("web"), map[string]string{"127.0.0.1:9001": "HEALTHY"})
	if got := w.zone.Wait(w.ctx, 1); !got.GetComplete() {
		t.Fatalf("at the start: %v", got)
	}
	p.Pause()
	commit := func(timeout time.Duration) uint64 {
		res, err := w.store.Commit(w.ctx, store.Txn{Ops: []store.Op{store.Put{Resource: &mesh.Resource{
			Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"},
			Spec: &meshv1.MeshTimeout{
				TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
				To: []*meshv1.MeshTimeout_To{{
					TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
					Default:   &meshv1.MeshTimeout_Conf{ConnectionTimeout: durationpb.New(timeout)},
				}},
			},
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		return res.Revision
	}
	// The first may still be read: a pause holds from the next message on.
	commit(time.Second)
	revision := commit(2 * time.Second)
	impatient, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	got := w.zone.Wait(impatient, revision)
	z := got.GetZones()[0]
	if got.GetComplete() || z.GetPendingCount() != 1 || len(z.GetPending()) != 1 ||
		z.GetPending()[0] != "default/web-1" {
		t.Fatalf("with an answer withheld: %v", got)
	}
	p.Resume()
	if got := w.zone.Wait(w.ctx, revision); !got.GetComplete() {
		t.Fatalf("after the answer: %v", got)
	}
}

func TestPortInUse(t *testing.T) {
	w := newWorld(t)
	z, err := zone.New(zone.Config{
		Config:  role.Config{Store: w.store, Server: w.server},
		Name:    "other",
		XDSAddr: w.addr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Listen(w.ctx); err == nil || !strings.Contains(err.Error(), "--xds-addr") ||
		!strings.Contains(err.Error(), w.addr) {
		t.Errorf("Listen = %v", err)
	}
}
