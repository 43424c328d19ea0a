package xds

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// testPlane is the xDS side of one zone: store, replica, engine and server.
type testPlane struct {
	t     *testing.T
	zone  string
	store store.Store
	e     *Engine
	port  uint32
	ca    []byte
}

// Join admits every client, by node id.
func (p *testPlane) Join(_ context.Context, j delta.Join) (delta.Member, error) {
	meshName, name, _ := strings.Cut(j.NodeID, ".")
	k := mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: p.zone, Name: name}
	if j.ProxyType == "ingress" {
		k.Kind, k.Mesh = mesh.KindZoneIngress, ""
	}
	return testMember(k), nil
}

type testMember mesh.Key

func (m testMember) Proxy() (mesh.Key, uint64) { return mesh.Key(m), 0 }
func (testMember) Superseded() <-chan struct{} { return nil }
func (testMember) Configured()                 {}

func (testMember) Leave(error) {}

func newTestPlane(ctx context.Context, t *testing.T, zone string) *testPlane {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	rep := replica.New(replica.Config{Store: st})
	p := &testPlane{t: t, zone: zone, store: st, e: New(Config{Zone: zone, Replica: rep})}
	srv, err := servercert.LoadOrCreate(t.TempDir(), []string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	p.ca = srv.CAPEM
	g := grpc.NewServer(append(delta.ServerOptions(), grpc.Creds(credentials.NewTLS(srv.TLS())))...)
	ads := delta.NewServer(delta.Config{Source: p.e, Admission: p})
	ads.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.port = uint32(l.Addr().(*net.TCPAddr).Port)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = rep.Run(ctx) })
	wg.Go(func() { _ = p.e.Run(ctx) })
	wg.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() {
		g.Stop()
		cancel()
		wg.Wait()
		ads.Wait()
		_ = st.Close()
	})
	return p
}

func (p *testPlane) put(rs ...*mesh.Resource) uint64 {
	p.t.Helper()
	txn := store.Txn{Author: "test"}
	for _, r := range rs {
		txn.Ops = append(txn.Ops, store.Put{Resource: r.Clone()})
	}
	res, err := p.store.Commit(context.Background(), txn)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.Revision
}

// envoy runs a proxy until the test ends or kill is called, which is SIGKILL.
func (p *testPlane) envoy(bin, nodeID, kind string) (kill func()) {
	p.t.Helper()
	doc, err := bootstrap.Build(bootstrap.Config{
		NodeID:     nodeID,
		ProxyType:  kind,
		Host:       "127.0.0.1",
		Port:       p.port,
		ServerName: "localhost",
		CA:         p.ca,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(p.t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		p.t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(bin, "-c", path, "-l", "warning", "--use-dynamic-base-id", "--concurrency", "1")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p.t.Cleanup(func() {
		kill()
		if p.t.Failed() {
			p.t.Logf("%s %s:\n%s", p.zone, nodeID, log.String())
		}
	})
	return kill
}

// app is a workload that answers with its name and the caller's identity.
func app(t *testing.T, name string) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", name, r.Header.Get("x-forwarded-client-cert"))
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	// Below the range from which the system takes ports for connections: one of those could take it
	// before Envoy binds it.
	for range 100 {
		port := 11000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return uint32(port)
		}
	}
	t.Fatal("no free port found")
	return 0
}

// TestZones runs two zones with real Envoys and STRICT mTLS: a caller in east reaches a multi-zone
// service here, and in west through its ingress when the sidecar here is killed under load; a
// caller without permission gets 403.
func TestZones(t *testing.T) {
	bin := envoytest.Binary(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	root, key, err := pki.NewRoot("default", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root, key)
	if err != nil {
		t.Fatal(err)
	}
	identity := func(service string) *ir.Identity {
		chain, key, _, err := authority.IssueLeaf([]string{"kuma://kuma.io/service/" + service,
			"spiffe://default/" + service}, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return &ir.Identity{Chain: chain, Key: key}
	}
	east, west := newTestPlane(ctx, t, "east"), newTestPlane(ctx, t, "west")

	service := func(zone string) *mesh.Resource {
		r := testService(zone, "backend", 8080)
		r.Spec.(*meshv1.MeshService).Ports[0].TargetPort = &meshv1.IntOrString{
			Value: &meshv1.IntOrString_StringValue{StringValue: "http"}}
		return r
	}
	backend := func(zone string) *mesh.Resource {
		r := testDataplane("backend-1", "127.0.0.1", "backend", freePort(t))
		r.Key.Zone = zone
		in := r.Spec.(*meshv1.Dataplane).Networking.Inbound[0]
		in.ServicePort, in.ServiceAddress = app(t, zone), "127.0.0.1"
		return r
	}
	caller := func(name string) (*mesh.Resource, string) {
		port := freePort(t)
		r := testDataplane(name, "127.0.0.1", name, freePort(t))
		r.Spec.(*meshv1.Dataplane).Networking.Outbound = []*meshv1.Dataplane_Outbound{{
			Port: port,
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{
				Kind: "MeshMultiZoneService",
				Name: "backend",
				Port: 8080,
			},
		}}
		return r, fmt.Sprintf("http://127.0.0.1:%d/", port)
	}
	multi := resource(mesh.KindMeshMultiZoneService, "", "backend", &meshv1.MeshMultiZoneService{
		Selector: &meshv1.MeshMultiZoneService_Selector{
			MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{
				MatchLabels: map[string]string{mesh.LabelDisplayName: "backend"}}},
		Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 8080, Name: "http", AppProtocol: "http"}},
	})
	status := &meshv1.MeshMultiZoneServiceStatus{}
	for _, z := range []string{"east", "west"} {
		status.MeshServices = append(status.MeshServices, &meshv1.MeshMultiZoneServiceStatus_Member{
			Name:       "backend",
			Zone:       z,
			Mesh:       "default",
			Ports:      []uint32{8080},
			Healthy:    1,
			Total:      1,
			Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "backend"}},
		})
	}
	ingressPort := freePort(t)
	ingress := resource(mesh.KindZoneIngress, "west", "ingress", &meshv1.ZoneIngress{
		Zone: "west",
		Networking: &meshv1.ZoneIngress_Networking{
			Address:           "127.0.0.1",
			Port:              ingressPort,
			AdvertisedAddress: "127.0.0.1",
			AdvertisedPort:    ingressPort,
		},
	})
	ca := resource(mesh.KindSecret, "", "", &meshv1.Secret{Data: root})
	ca.Key = secrets.RootCert("default", "ca-1")
	permission := resource(mesh.KindMeshTrafficPermission, "", "web",
		&meshv1.MeshTrafficPermission{From: []*meshv1.MeshTrafficPermission_From{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: "web"},
			Default:   &meshv1.MeshTrafficPermission_FromConf{Action: "Allow"},
		}}})
	web, url := caller("web")
	intruder, intruderURL := caller("intruder")

	for _, p := range []*testPlane{east, west} {
		multi := multi.Clone()
		p.put(testMesh("STRICT"), ca, permission, multi, service("east"), service("west"), ingress)
		if _, err := p.store.Commit(ctx, store.Txn{
			Author: "test",
			Ops:    []store.Op{store.PutStatus{Key: multi.Key, Status: status}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	b := backend("west")
	west.put(b)
	west.e.SetIdentity(b.Key, identity("backend"))
	west.envoy(bin, "default.backend-1", "dataplane")
	west.envoy(bin, ".ingress", "ingress")
	b = backend("east")
	east.put(b, web, intruder)
	for _, r := range []*mesh.Resource{b, web, intruder} {
		east.e.SetIdentity(r.Key,
			identity(mesh.Spec[*meshv1.Dataplane](r).Networking.Inbound[0].Tags[mesh.TagService]))
	}
	kill := east.envoy(bin, "default.backend-1", "dataplane")
	east.envoy(bin, "default.web", "dataplane")
	east.envoy(bin, "default.intruder", "dataplane")

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	get := func(url string) (int, string) {
		res, err := client.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	wait := func(ok func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				code, body := get(url)
				t.Fatalf("timed out; web sees %d %s; east %+v west %+v", code, body, east.e.Progress(),
					west.e.Progress())
			}
		}
	}
	wait(func() bool { code, _ := get(url); return code == 200 })
	wait(func() bool {
		_, body := get(url)
		return strings.HasPrefix(body, "east for ") && strings.Contains(body, "URI=spiffe://default/web")
	})
	wait(func() bool { code, _ := get(intruderURL); return code == http.StatusForbidden })

	// The ingress of west must be up before east goes.
	wait(func() bool { p := west.e.Progress(); return p.Online == 2 && p.PendingCount == 0 })
	var sent, failed, far atomic.Int64
	load, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for load.Err() == nil {
				code, body := get(url)
				sent.Add(1)
				if code != 200 && failed.Add(1) == 1 {
					t.Errorf("a request failed: %d %s", code, body)
				}
				if strings.HasPrefix(body, "west") {
					far.Add(1)
				}
			}
		})
	}
	wait(func() bool { return sent.Load() > 200 })
	kill()
	wait(func() bool { return far.Load() > 200 })
	stop()
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
	for _, p := range []*testPlane{east, west} {
		if r := p.e.Progress().Rejections; len(r) > 0 {
			t.Errorf("%s: rejected: %+v", p.zone, r)
		}
	}
}
