package xds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
)

const testZone = "east"

// world drives an engine by hand: no goroutine, no store.
type world struct {
	t        testing.TB
	e        *Engine
	view     replica.View
	revision uint64
}

func newWorld(t testing.TB) *world { return &world{t: t, e: newEngine(testZone)} }

func (w *world) put(rs ...*mesh.Resource) {
	var changes []store.Change
	w.revision++
	for _, r := range rs {
		r.Revision = w.revision
		old, _ := w.view.Get(r.Key)
		changes = append(changes, store.Change{Type: store.ChangeSpec, Key: r.Key, Resource: r, Old: old})
	}
	w.step(changes)
}

func (w *world) remove(k mesh.Key) {
	w.revision++
	if old, ok := w.view.Get(k); ok {
		w.step([]store.Change{{Type: store.ChangeDelete, Key: k, Old: old}})
	}
}

func (w *world) status(k mesh.Key, s proto.Message) {
	w.revision++
	old, _ := w.view.Get(k)
	now := *old
	now.Status, now.StatusRevision = s, w.revision
	w.step([]store.Change{{Type: store.ChangeStatus, Key: k, Resource: &now, Old: old}})
}

func (w *world) step(changes []store.Change) {
	w.view = w.view.With(w.revision, changes)
	w.e.process(replica.Batch{View: w.view, Changes: changes})
}

// computes are the calls by query since the last call.
func (w *world) computes(f func()) map[string]uint64 {
	before := map[string]uint64{}
	for k := range w.e.g.Stats() {
		before[k.Name] = k.Computes
	}
	f()
	out := map[string]uint64{}
	for k := range w.e.g.Stats() {
		if n := k.Computes - before[k.Name]; n > 0 {
			out[k.Name] = n
		}
	}
	return out
}

func (w *world) open(k mesh.Key) *watch {
	f := w.e.Open(delta.OpenRequest{Proxy: k}).(*watch)
	w.e.processEvents()
	return f
}

func (w *world) table(k mesh.Key) *delta.Table {
	w.t.Helper()
	t, ok := w.e.Config(k)
	if !ok {
		w.t.Fatalf("%s has no table", k)
	}
	return t
}

func resource(kind mesh.Kind, zone, name string, spec proto.Message) *mesh.Resource {
	k := mesh.Key{Kind: kind, Mesh: "default", Zone: zone, Name: name}
	if info, _ := mesh.Lookup(kind); info.Scope == mesh.ScopeGlobal {
		k.Mesh = ""
	}
	return &mesh.Resource{Key: k, Spec: spec}
}

func testMesh(mode string) *mesh.Resource {
	spec := &meshv1.Mesh{}
	if mode != "" {
		spec.Mtls = &meshv1.Mesh_Mtls{
			EnabledBackend: "ca-1",
			Backends:       []*meshv1.Mesh_Backend{{Name: "ca-1", Type: "builtin", Mode: mode}},
		}
	}
	return resource(mesh.KindMesh, "", "default", spec)
}

func testService(zone, name string, port uint32) *mesh.Resource {
	return resource(mesh.KindMeshService, zone, name, &meshv1.MeshService{
		Selector: &meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: name}},
		Ports: []*meshv1.ServicePort{{
			Port:        port,
			Name:        "http",
			AppProtocol: "http",
			TargetPort:  &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: int64(port)}},
		}},
		Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: name}},
		State:      "Available",
	})
}

// testDataplane is an instance of service that calls the services named.
func testDataplane(name, address, service string, port uint32, calls ...string) *mesh.Resource {
	n := &meshv1.Dataplane_Networking{
		Address: address,
		Inbound: []*meshv1.Dataplane_Inbound{{Port: port, Name: "http", ServicePort: port + 1,
			Protocol: "http", Tags: map[string]string{mesh.TagService: service}}},
	}
	for i, c := range calls {
		n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{Port: uint32(10000 + i),
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: c, Port: 8080}})
	}
	return resource(mesh.KindDataplane, testZone, name, &meshv1.Dataplane{Networking: n})
}

// TestCostFollowsChange counts calls of compute functions: a change must compute what depends on it
// and nothing else, however many proxies there are.
func TestCostFollowsChange(t *testing.T) {
	const proxies = 40
	w := newWorld(t)
	rs := []*mesh.Resource{testMesh("STRICT")}
	var calls []string
	for i := range 10 {
		name := fmt.Sprintf("svc-%d", i)
		calls = append(calls, name)
		rs = append(rs, testService(testZone, name, 8080))
	}
	for i := range proxies {
		rs = append(rs, testDataplane(fmt.Sprintf("dp-%d", i), fmt.Sprintf("10.0.0.%d", i+1), calls[i%10],
			8080, calls...))
	}
	w.put(rs...)
	watches := make([]*watch, proxies)
	for i := range proxies {
		watches[i] = w.open(mesh.Key{
			Kind: mesh.KindDataplane,
			Mesh: "default",
			Zone: testZone,
			Name: fmt.Sprintf("dp-%d", i),
		})
	}
	timeout := func(name, service string, d time.Duration) *mesh.Resource {
		target := &meshv1.TargetRef{Kind: "Mesh"}
		if service != "" {
			target = &meshv1.TargetRef{Kind: "MeshService", Name: service}
		}
		return resource(mesh.KindMeshTimeout, "", name, &meshv1.MeshTimeout{To: []*meshv1.MeshTimeout_To{{
			TargetRef: target,

			Default: &meshv1.MeshTimeout_Conf{
				Http: &meshv1.MeshTimeout_Http{RequestTimeout: durationpb.New(d)}},
		}}})
	}
	w.put(timeout("one", "svc-3", time.Second))
	insight := func(name, state string) *mesh.Resource {
		return resource(mesh.KindDataplaneInsight, testZone, name, &meshv1.ProxyInsight{State: state})
	}
	w.put(insight("dp-0", "Online"))

	for _, tc := range []struct {
		name   string
		change func()
		want   map[string]uint64
	}{
		{"a policy's content: no matching, one route",
			func() { w.put(timeout("one", "svc-3", 2*time.Second)) },
			map[string]uint64{"head": 1, "policy_summary": 1, "outbound_config": 1,
				"routes": 1, "group": 1, "table": proxies,
				"inbound_policy": 1}},
		{"an insight that says nothing new", func() { w.put(insight("dp-0", "Online")) },
			map[string]uint64{"instance": 1}},
		{"an endpoint's health", func() { w.put(insight("dp-0", "Lost")) },
			map[string]uint64{"instance": 1, "local_endpoints": 1, "endpoints": 1, "group": 1,
				"table": proxies, "membership": 1}},
		{"an identity", func() { w.e.SetIdentity(watches[0].key, testIdentity); w.e.processEvents() },
			map[string]uint64{"secrets": 1, "table": 1}},
		{"a status that is not read",
			func() { w.status(testService(testZone, "svc-1", 1).Key, &meshv1.MeshServiceStatus{}) }, nil},
		{"an unrelated mesh", func() {
			r := testService(testZone, "else", 8080)
			r.Key.Mesh = "other"
			w.put(r)
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := w.computes(tc.change)
			for q, n := range got {
				if n > tc.want[q] {
					t.Errorf("%s was computed %d times, want at most %d", q, n, tc.want[q])
				}
			}
			for q := range tc.want {
				if got[q] == 0 && q != "membership" {
					t.Errorf("%s was not computed", q)
				}
			}
		})
	}

	// A proxy's own inbound is its own affair.
	dp := testDataplane("dp-7", "10.0.0.8", "svc-7", 8080, calls...)
	dp.Spec.(*meshv1.Dataplane).Networking.Inbound[0].ServicePort = 9999
	got := w.computes(func() { w.put(dp) })
	for _, q := range []string{"inbound", "table", "scope", "match", "instance", "membership"} {
		if got[q] > 1 {
			t.Errorf("%s was computed %d times for one proxy's own inbound", q, got[q])
		}
	}
	for _, q := range []string{"group", "endpoints", "cluster", "routes", "listener"} {
		if got[q] > 0 {
			t.Errorf("%s was computed for one proxy's own inbound", q)
		}
	}
	if got["inbound"] != 1 {
		t.Errorf("its inbound was computed %d times", got["inbound"])
	}
}

// TestNothingStays: when all watches are closed, nothing is remembered.
func TestNothingStays(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh("STRICT"), testService(testZone, "api", 8080),
		testDataplane("api-1", "10.0.0.1", "api", 8080, "api"))
	f := w.open(testDataplane("api-1", "", "api", 1).Key)
	g := w.open(f.key)
	f.Close()
	w.e.processEvents()
	if _, ok := w.e.Config(f.key); !ok {
		t.Error("the second watch lost its table")
	}
	g.Close()
	w.e.processEvents()
	for k := range w.e.g.Stats() {
		if k.Values != 0 {
			t.Errorf("%d nodes of %s stay", k.Values, k.Name)
		}
	}
}

// TestFailureKeepsLastGood: a value that cannot be computed keeps its last good one, is reported, and heals.
func TestFailureKeepsLastGood(t *testing.T) {
	w := newWorld(t)
	w.put(testMesh(""), testService(testZone, "api", 8080),
		testDataplane("web-1", "10.0.0.1", "web", 8080, "api"))
	f := w.open(testDataplane("web-1", "", "web", 1).Key)
	before := w.table(f.key)
	good := w.e.q.cluster.Func()
	w.e.q.cluster.SetFunc(func(*graph.Reader, clusterKey) (*delta.Resource, error) { panic("broken") })
	w.put(testMesh("STRICT"))
	p := w.e.Progress()
	if len(p.Rejections) != 1 || mesh.KeyFromProto(p.Rejections[0].GetProxy()) != f.key ||
		p.Rejections[0].GetStage() != meshv1.Rejection_STAGE_TRANSLATION ||
		!strings.Contains(p.Rejections[0].Reason, "broken") {
		t.Fatalf("rejections: %+v", p.Rejections)
	}
	name := "kri_msvc_default_east__api_http"
	if w.table(f.key).Lookup(delta.TypeCluster, name) != before.Lookup(delta.TypeCluster, name) {
		t.Error("the last good cluster is gone")
	}
	if w.table(f.key).Lookup(delta.TypeListener, "self_inbound_dp_http") == before.Lookup(delta.TypeListener,
		"self_inbound_dp_http") {
		t.Error("the rest of the proxy's configuration did not move on")
	}
	w.e.q.cluster.SetFunc(good)
	w.put(resource(mesh.KindMeshService, testZone, "unrelated", &meshv1.MeshService{}))
	if p := w.e.Progress(); len(p.Rejections) != 0 {
		t.Errorf("still rejected: %+v", p.Rejections)
	}
	if w.table(f.key).Lookup(delta.TypeCluster, name) == before.Lookup(delta.TypeCluster, name) {
		t.Error("the cluster was not computed again")
	}

	// A proxy that is gone keeps what it had, and there is no rejection.
	last := w.table(f.key)
	w.remove(f.key)
	if w.table(f.key) != last || len(w.e.Progress().Rejections) != 0 {
		t.Error("a removed Dataplane took its proxy's configuration away")
	}
}

// TestBlame: what a policy says that cannot be made is blamed on it alone; only the proxies that it
// selects are concerned, and of those only the resource that it is about.
func TestBlame(t *testing.T) {
	limits := func(name string) *mesh.Resource {
		return resource(mesh.KindMeshRateLimit, "", name, &meshv1.MeshRateLimit{
			TargetRef: &meshv1.TargetRef{Kind: "Dataplane", Name: "web-1"},
			From: []*meshv1.MeshRateLimit_From{{
				TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
				Default: &meshv1.MeshRateLimit_Conf{Local: &meshv1.MeshRateLimit_Local{
					Tcp: &meshv1.MeshRateLimit_Tcp{ConnectionRate: &meshv1.MeshRateLimit_Rate{
						Num:      proto.Uint32(5),
						Interval: durationpb.New(time.Second),
					}}}},
			}},
		})
	}
	timeout := func(name string) *mesh.Resource {
		return resource(mesh.KindMeshTimeout, "", name, &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Dataplane", Name: "web-1"},
			To: []*meshv1.MeshTimeout_To{{
				TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: "api"},
				Default: &meshv1.MeshTimeout_Conf{
					ConnectionTimeout: durationpb.New(3 * time.Second),

					Http: &meshv1.MeshTimeout_Http{RequestTimeout: durationpb.New(3 * time.Second)},
				},
			}},
		})
	}
	failure := func(on bool) error {
		if on {
			return errors.New("cannot be translated")
		}
		return nil
	}
	for _, tc := range []struct {
		query  string
		policy *mesh.Resource
		spoil  func(q *queries, blamed mesh.Key)
		typ    delta.Type
		name   string
	}{
		{"cluster", timeout("bad"), func(q *queries, bad mesh.Key) {
			good := q.cluster.Func()
			q.cluster.SetFunc(func(r *graph.Reader, k clusterKey) (*delta.Resource, error) {
				if err := failure(slices.Contains(policiesIn(k.causes), bad)); err != nil {
					return nil, err
				}
				return good(r, k)
			})
		}, delta.TypeCluster, "kri_msvc_default_east__api_http"},
		{"routes", timeout("bad"), func(q *queries, bad mesh.Key) {
			good := q.routes.Func()
			q.routes.SetFunc(func(r *graph.Reader, k routesKey) (*routesOf, error) {
				if slices.Contains(policiesIn(k.causes), bad) {
					panic("cannot be translated")
				}
				return good(r, k)
			})
		}, delta.TypeRoute, "kri_msvc_default_east__api_http"},
		{"inbound", limits("bad"), func(q *queries, bad mesh.Key) {
			good := q.inbound.Func()
			q.inbound.SetFunc(func(r *graph.Reader, k mesh.Key) (*segment, error) {
				s, err := good(r, k)
				for _, res := range s.list {
					err = cmp.Or(err, failure(slices.Contains(res.Cause, bad)))
				}
				return s, err
			})
		}, delta.TypeListener, "self_inbound_dp_http"},
	} {
		t.Run(tc.query, func(t *testing.T) {
			w := newWorld(t)
			web, shop := testDataplane("web-1", "10.0.0.1", "web", 8080, "api", "other"),
				testDataplane("shop-1", "10.0.0.2", "shop", 8080, "api")
			w.put(testMesh(""), testService(testZone, "api", 8080), testService(testZone, "other", 8080), web,
				shop)
			w.open(web.Key)
			w.open(shop.Key)
			before, others := w.table(web.Key), w.table(shop.Key)
			tc.spoil(w.e.q, tc.policy.Key)
			innocent := timeout("innocent")
			innocent.Spec.(*meshv1.MeshTimeout).To[0].TargetRef.Name = "other"
			w.put(tc.policy, innocent)
			p := w.e.Progress()
			if len(p.Rejections) != 1 || mesh.KeyFromProto(p.Rejections[0].GetProxy()) != web.Key ||
				mesh.KeyFromProto(p.Rejections[0].GetCause()) != tc.policy.Key ||
				p.Rejections[0].GetStage() != meshv1.Rejection_STAGE_TRANSLATION ||
				!strings.Contains(p.Rejections[0].Reason, "cannot be translated") {
				t.Fatalf("rejections: %+v", p.Rejections)
			}
			if w.table(web.Key).Lookup(tc.typ, tc.name) != before.Lookup(tc.typ, tc.name) {
				t.Error("the last good one is gone")
			}
			if name := "kri_msvc_default_east__other_http"; w.table(web.Key).Lookup(delta.TypeRoute,
				name) == before.Lookup(delta.TypeRoute, name) {
				t.Error("the rest did not move on")
			}
			if w.table(shop.Key) != others {
				t.Error("another proxy has something new")
			}
			for k := range w.e.g.Stats() {
				if want := k.Name == tc.query; want != (k.Failures == 1) {
					t.Errorf("%d failures of %s were counted", k.Failures, k.Name)
				}
			}
			w.remove(tc.policy.Key)
			if p := w.e.Progress(); len(p.Rejections) != 0 {
				t.Errorf("still rejected: %+v", p.Rejections)
			}
		})
	}
}

// TestTrust: proxies trust the bundle of the backend in use, wherever it is kept, and hear when it changes.
func TestTrust(t *testing.T) {
	provided := func(cert *meshv1.DataSource) *mesh.Resource {
		m := testMesh("STRICT")
		b := m.Spec.(*meshv1.Mesh).Mtls.Backends[0]
		b.Type, b.Conf = "provided", &meshv1.Mesh_Conf{Cert: cert}
		return m
	}
	secret := func(name, data string) *mesh.Resource {
		return resource(mesh.KindSecret, "", name, &meshv1.Secret{Data: []byte(data)})
	}
	w := newWorld(t)
	w.put(testDataplane("web-1", "10.0.0.1", "web", 8080))
	f := w.open(testDataplane("web-1", "", "web", 1).Key)
	for _, tc := range []struct {
		name   string
		change []*mesh.Resource
		want   string
	}{
		{"no mTLS", []*mesh.Resource{testMesh("")}, ""},
		{"builtin without its Secret yet", []*mesh.Resource{testMesh("STRICT")}, ""},
		{"builtin", []*mesh.Resource{secret("default.ca-builtin-cert-ca-1", "one")}, "one"},
		{"another root", []*mesh.Resource{secret("default.ca-builtin-cert-ca-1", "two")}, "two"},
		{"provided inline", []*mesh.Resource{provided(&meshv1.DataSource{InlineString: "three"})}, "three"},
		{"provided by a Secret",
			[]*mesh.Resource{provided(&meshv1.DataSource{Secret: "my-ca"}), secret("my-ca", "four")}, "four"},
	} {
		w.put(tc.change...)
		got := ""
		if r := w.table(f.key).Lookup(delta.TypeSecret, "system_mtls_ca_default"); r != nil {
			got = string(message(t, r).(*tlsv3.Secret).GetValidationContext().GetTrustedCa().GetInlineBytes())
		}
		if got != tc.want {
			t.Errorf("%s: trusts %q, want %q", tc.name, got, tc.want)
		}
	}
}
