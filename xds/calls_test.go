package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/translate"
)

var (
	aCaller      = delta.Client{Kind: delta.ClientGRPC}
	aCertificate = delta.Client{Kind: delta.ClientGRPC, CertificateProvider: "mesh"}
)

func (w *world) call(k mesh.Key, c delta.Client, names ...string) *watch {
	f := w.e.Open(delta.OpenRequest{Proxy: k, Client: c}).(*watch)
	f.Subscribe(names)
	w.e.processEvents()
	return f
}

func dataplaneKey(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: testZone, Name: name}
}

func virtual(destination *mesh.Resource, hostnames ...string) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.VirtualAddressKey(testZone, destination.Key),
		Spec: &meshv1.VirtualAddress{
			Destination: destination.Key.Proto(),
			Ip:          "241.0.0.1",
			Hostnames:   hostnames,
		},
	}
}

// listeners are what the watch's table has, by name.
func (f *watch) listeners() []string {
	var out []string
	for r := range f.latest.All(delta.TypeListener) {
		out = append(out, r.Name)
	}
	return out
}

func (w *world) has(f *watch, names ...string) {
	w.t.Helper()
	if got := f.listeners(); !slices.Equal(got, names) {
		w.t.Fatalf("listeners %q, want %q", got, names)
	}
}

// TestCallNames: a name is looked up as it is asked for, and again when what it may mean changes.
func TestCallNames(t *testing.T) {
	w := newWorld(t)
	api := testService(testZone, "api", 8080)
	spec := api.Spec.(*meshv1.MeshService)
	spec.Ports = append(spec.Ports, &meshv1.ServicePort{
		Port:        9090,
		Name:        "main",
		AppProtocol: "grpc",
	}, &meshv1.ServicePort{
		Port:        9091,
		AppProtocol: "tcp",
	})
	west := testService("west", "far", 8080)
	address := virtual(api, "api.svc.kongair.mesh")
	w.put(testMesh(""), api, west, testDataplane("web", "10.0.0.1", "web", 80), address)
	names := []string{"api", "api:8080", "api:9091", "api:main", "api:1", "api.svc.kongair.mesh",
		"api.svc.kongair.mesh:9090", "far", "later", "multi:8080"}
	f := w.call(dataplaneKey("web"), aCaller, names...)
	w.has(f, "api", "api.svc.kongair.mesh", "api.svc.kongair.mesh:9090", "api:8080", "api:9091", "api:main")
	routesOf := func(name string) string {
		text := fmt.Sprint(message(t, f.latest.Lookup(delta.TypeListener, name)))
		for _, port := range []string{"http", "main", "9091"} {
			if strings.Contains(text, "__api_"+port) {
				return port
			}
		}
		return text
	}
	for name, port := range map[string]string{"api": "main", "api:8080": "http",
		"api.svc.kongair.mesh": "main", "api:9091": "9091"} {
		if got := routesOf(name); got != port {
			t.Errorf("%s is port %s, want %s", name, got, port)
		}
	}
	w.put(testService(testZone, "later", 8080),
		resource(mesh.KindMeshMultiZoneService, "", "multi", &meshv1.MeshMultiZoneService{
			Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 8080, AppProtocol: "grpc"}}}))
	w.has(f, "api", "api.svc.kongair.mesh", "api.svc.kongair.mesh:9090", "api:8080", "api:9091", "api:main",
		"later", "multi:8080")
	released := *address
	released.Spec = &meshv1.VirtualAddress{
		Destination: api.Key.Proto(),
		Hostnames:   []string{"api.svc.kongair.mesh"},
		Released:    timestamppb.Now(),
	}
	w.put(&released)
	w.remove(api.Key)
	w.has(f, "later", "multi:8080")

	// Streams of one client add up, and what one of them calls goes with it. An Envoy of the proxy
	// has nothing of it.
	second := w.call(dataplaneKey("web"), aCaller, "later:8080")
	w.has(second, "later", "later:8080", "multi:8080")
	envoy := w.open(dataplaneKey("web"))
	if got := envoy.listeners(); slices.Contains(got, "later") ||
		!slices.Contains(got, "self_inbound_dp_http") {
		t.Fatalf("an Envoy has the listeners %q", got)
	}
	f.Close()
	w.e.processEvents()
	w.has(second, "later:8080")
	second.Close()
	envoy.Close()
	w.e.processEvents()
	if len(w.e.s.subscriptions) > 0 {
		t.Errorf("subscriptions %v stay", w.e.s.subscriptions)
	}
}

// TestWantIsAnswered: each call of Want is counted in an update, though nothing changed.
func TestWantIsAnswered(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh(""), testService(testZone, "api", 8080), testDataplane("web", "10.0.0.1", "web", 80))
	f := w.call(dataplaneKey("web"), aCaller, "api")
	take := func() delta.Update {
		t.Helper()
		u, err := next(t.Context(), w.e, f)
		if err != nil {
			t.Fatal(err)
		}
		f.Ack(u.Revision, nil)
		return u
	}
	if u := take(); u.Subscribed != 1 || u.Table.Lookup(delta.TypeListener, "api") == nil {
		t.Fatalf("first update counts %d", u.Subscribed)
	}
	f.Subscribe([]string{"api", "nothing"})
	w.e.processEvents()
	if u := take(); u.Subscribed != 2 || u.Table.Lookup(delta.TypeListener, "nothing") != nil {
		t.Fatalf("second update counts %d", u.Subscribed)
	}
	if p := w.e.Progress(); p.PendingCount != 0 || p.Acked != p.Revision {
		t.Fatalf("progress %+v", p)
	}
	f.Subscribe([]string{"nothing"})
	f.Subscribe([]string{"api"})
	w.e.processEvents()
	if u := take(); u.Subscribed != 4 {
		t.Fatalf("third update counts %d", u.Subscribed)
	}
}

// TestCallCost: a gRPC client is notified by what it calls alone.
func TestCallCost(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh(""), testService(testZone, "api", 8080), testService(testZone, "other", 8080),
		testDataplane("web", "10.0.0.1", "web", 80),
		testDataplane("api-1", "10.0.0.2", "api", 8080))
	f := w.call(dataplaneKey("web"), aCaller, "api")
	before := f.latest
	if n := w.computes(func() {
		w.put(testDataplane("other-1", "10.0.0.3", "other", 8080), testService(testZone, "another", 8080))
	}); n["calls"]+n["call_table"]+n["call_endpoints"]+n["call_cluster"]+n["call_listener"] > 0 ||
		f.latest != before {
		t.Errorf("another service cost %v", n)
	}
	n := w.computes(func() { w.put(testDataplane("api-2", "10.0.0.4", "api", 8080)) })
	if n["call_endpoints"] != 1 || n["calls"] != 1 ||
		n["call_routes"]+n["call_cluster"]+n["call_listener"] > 0 {
		t.Errorf("an endpoint cost %v", n)
	}
	var cla endpointv3.ClusterLoadAssignment
	if err := proto.Unmarshal(f.latest.Lookup(delta.TypeEndpoint, "kri_msvc_default_east__api_http").Body,
		&cla); err != nil {
		t.Fatal(err)
	}
	if len(cla.GetEndpoints()) != 1 || cla.GetEndpoints()[0].GetLoadBalancingWeight().GetValue() != 2 {
		t.Errorf("gRPC takes no locality without a weight: %v", &cla)
	}
}

// TestCallTLS: clear text where the mesh takes it, else the client's provider, else no endpoint
// and a reason.
func TestCallTLS(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh(""), testService(testZone, "api", 8080), testDataplane("web", "10.0.0.1", "web", 80))
	plain, provided := w.call(dataplaneKey("web"), aCaller, "api"),
		w.call(dataplaneKey("web"), aCertificate, "api")
	idle := w.call(dataplaneKey("web"), aCaller)
	cluster := func(f *watch) string {
		return fmt.Sprint(message(t, f.latest.Lookup(delta.TypeCluster, "kri_msvc_default_east__api_http")))
	}
	check := func(mode string, noCertificate, tls bool) {
		t.Helper()
		if got := strings.Contains(cluster(plain), translate.NoCertificates); got != noCertificate {
			t.Errorf("%s: without a provider: %s", mode, cluster(plain))
		}
		if strings.Contains(cluster(plain), "UpstreamTlsContext") {
			t.Errorf("%s: TLS without a provider: %s", mode, cluster(plain))
		}
		if got := strings.Contains(cluster(provided), "UpstreamTlsContext"); got != tls {
			t.Errorf("%s: with a provider: %s", mode, cluster(provided))
		}
		if got := len(w.e.Progress().Rejections) == 1; got != noCertificate {
			t.Errorf("%s: rejections %+v", mode, w.e.Progress().Rejections)
		}
	}
	check("off", false, false)
	w.put(testMesh("STRICT"))
	check("STRICT", true, true)
	if r := w.e.Progress().Rejections[0]; r.GetStage() != meshv1.Rejection_STAGE_TRANSLATION ||
		r.Revision != w.revision {
		t.Errorf("rejection %+v at %d", r, w.revision)
	}
	// It concerns no change after that.
	w.put(testService(testZone, "other", 8080))
	if r := w.e.Progress().Rejections[0]; r.Revision != w.revision-1 {
		t.Errorf("rejection %+v at %d", r, w.revision)
	}
	w.put(testMesh("PERMISSIVE"))
	check("PERMISSIVE", false, false)
	idle.Close()
}

// TestCallsIncremental: as TestIncrementalEqualsRebuild, for gRPC clients.
func TestCallsIncremental(t *testing.T) {
	for s := uint64(1); s <= walks(*seeds/3); s++ {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			w := newWorld(t)
			d := newDice(s)
			envoys := map[mesh.Key]*watch{}
			calling := map[caller]*watch{}
			before := map[caller]*delta.Table{}
			for range *steps {
				what := d.step(w, envoys)
				if d.IntN(3) == 0 {
					c := caller{dataplaneKey(d.of("p1", "p2", "p3")), delta.Client{
						Kind:                delta.ClientGRPC,
						CertificateProvider: d.of("", "mesh"),
					}}
					if calling[c] == nil {
						calling[c] = w.call(c.proxy, c.client)
					}
					calling[c].Subscribe([]string{d.of("a", "a:8080", "nothing"),
						d.of("b", "multi", "c:http")})
					w.e.processEvents()
					what += "; calls by " + c.proxy.Name
				}
				fresh := newEngine(testZone)
				for k := range d.ids {
					fresh.SetIdentity(k, testIdentity)
				}
				fresh.process(replica.Batch{View: w.view, Reset: true})
				for c, f := range calling {
					if _, exists := w.view.Get(c.proxy); !exists {
						continue // it keeps what it had
					}
					g := fresh.Open(delta.OpenRequest{Proxy: c.proxy, Client: c.client}).(*watch)
					g.Subscribe(f.names)
					fresh.processEvents()
					compareTables(t, what, c.proxy, f.latest, g.latest)
					samePointers(t, what, c.proxy, before[c], f.latest)
					before[c] = f.latest
				}
			}
			for _, f := range calling {
				f.Close()
			}
			for _, f := range envoys {
				f.Close()
			}
			w.e.processEvents()
			for k := range w.e.g.Stats() {
				if k.Values != 0 {
					t.Fatalf("%d nodes of %s stay", k.Values, k.Name)
				}
			}
		})
	}
}
