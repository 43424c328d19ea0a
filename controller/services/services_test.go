package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = "us-east"

// world is a zone with a running reconciler, inside a synctest bubble.
type world struct {
	t     *testing.T
	store store.Store
	rep   *replica.Replica
	cfg   Config
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, rep: replica.New(replica.Config{Store: st})}
	w.cfg = Config{Deps: reconcile.Deps{Store: st, Replica: w.rep}, Zone: zone}
	if change != nil {
		change(&w.cfg)
	}
	rec := New(w.cfg)
	w.cfg = rec.cfg
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.rep.Run(ctx) }()
	go func() { done <- rec.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	w.put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}})
	return w
}

func (w *world) commit(ops ...store.Op) {
	w.t.Helper()
	if _, err := w.store.Commit(context.Background(), store.Txn{Author: "test", Ops: ops}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) put(rs ...*mesh.Resource) {
	w.t.Helper()
	var ops []store.Op
	for _, r := range rs {
		ops = append(ops, store.Put{Resource: r})
	}
	w.commit(ops...)
}

func (w *world) remove(k mesh.Key) {
	w.t.Helper()
	w.commit(store.Delete{Key: k})
}

func (w *world) get(k mesh.Key) *mesh.Resource {
	w.t.Helper()
	r, err := w.store.Get(context.Background(), k)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// settled fails unless a reconciler that starts from scratch has nothing to write.
func (w *world) settled() {
	w.t.Helper()
	fresh := newState(&w.cfg, zap.NewNop())
	fresh.apply(replica.Batch{View: w.rep.View(), Reset: true})
	if plan := fresh.compute(time.Now()); len(plan.Ops) > 0 {
		w.t.Fatalf("a rebuild would still write %d operations: %+v", len(plan.Ops), plan.Ops)
	}
}

func dataplane(name string, inbounds ...*meshv1.Dataplane_Inbound) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: zone, Name: name},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "10.0.0.1",
			Inbound: inbounds,
		}},
	}
}

func inbound(service string, port uint32) *meshv1.Dataplane_Inbound {
	return &meshv1.Dataplane_Inbound{
		Port: port,
		Tags: map[string]string{mesh.TagService: service, mesh.TagProtocol: "http"},
	}
}

func insight(name, state string, notReady ...string) *mesh.Resource {
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindDataplaneInsight, Mesh: "default", Zone: zone, Name: name},
		Spec: &meshv1.ProxyInsight{State: state, NotReady: notReady},
	}
}

func serviceKey(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: name}
}

func hostnames(name, selector, tmpl string) *mesh.Resource {
	hg := &meshv1.HostnameGenerator{Template: tmpl, Selector: &meshv1.HostnameGenerator_Selector{}}
	switch selector {
	case "MeshService":
		hg.Selector.MeshService = &meshv1.HostnameGenerator_LabelSelector{}
	default:
		hg.Selector.MeshMultiZoneService = &meshv1.HostnameGenerator_LabelSelector{}
	}
	return &mesh.Resource{Key: mesh.Key{Kind: mesh.KindHostnameGenerator, Name: name}, Spec: hg}
}

func (w *world) address(k mesh.Key) *meshv1.VirtualAddress {
	w.t.Helper()
	r := w.get(mesh.VirtualAddressKey(zone, k))
	if r == nil {
		return nil
	}
	return mesh.Spec[*meshv1.VirtualAddress](r)
}

func TestGenerateInOneTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.put(hostnames("kongair", "MeshService", "{{ .DisplayName }}.svc.kongair.mesh"))
		before := w.rep.View().Revision()
		w.put(dataplane("fs-1", inbound("flight-search", 8080)), insight("fs-1", "Online"))
		service := w.get(serviceKey("flight-search"))
		if service == nil {
			t.Fatal("no MeshService was generated")
		}
		want := &meshv1.MeshService{
			Selector: &meshv1.MeshService_Selector{
				DataplaneTags: map[string]string{mesh.TagService: "flight-search"}},
			Ports: []*meshv1.ServicePort{{Port: 8080, Name: "8080", AppProtocol: "http",
				TargetPort: &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: 8080}}}},
			Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "flight-search"}},
			State:      "Available",
		}
		if diff := cmp.Diff(want, service.Spec, protocmp.Transform()); diff != "" {
			t.Errorf("spec (-want +got):\n%s", diff)
		}
		if got := service.Labels[mesh.LabelManagedBy]; got != mesh.ManagedByServiceGenerator {
			t.Errorf("label managed-by = %q", got)
		}
		va := w.address(service.Key)
		if va.GetIp() != "241.0.0.1" ||
			!slices.Equal(va.GetHostnames(), []string{"flight-search.svc.kongair.mesh"}) {
			t.Errorf("address = %v", va)
		}
		status := mesh.Status[*meshv1.MeshServiceStatus](service)
		if diff := cmp.Diff(&meshv1.ProxyCounts{
			Connected: 1,
			Healthy:   1,
			Total:     1,
		}, status.GetDataplaneProxies(), protocmp.Transform()); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		if len(status.GetAddresses()) != 1 || status.GetVips()[0].GetIp() != "241.0.0.1" {
			t.Errorf("status = %v", status)
		}
		if got := w.rep.View().Revision() - before; got != 2 {
			t.Errorf("it took %d revisions, want 2: the registration and one reconciliation", got)
		}
		w.settled()
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.put(dataplane("a", inbound("web", 80)), dataplane("b", inbound("web", 80)), insight("a", "Online"),
			insight("b", "Online"))
		for _, c := range []struct {
			a, b               *mesh.Resource
			connected, healthy uint32
			state              string
		}{
			{insight("a", "Lost"), insight("b", "Online"), 1, 1, "Available"},
			{insight("a", "Lost"), insight("b", "Draining"), 1, 0, "Unavailable"},
			{insight("a", "Online", "80"), insight("b", "Online", "other"), 2, 1, "Available"},
			{insight("a", "Online"), insight("b", "Online"), 2, 2, "Available"},
		} {
			w.put(c.a, c.b)
			service := w.get(serviceKey("web"))
			counts := mesh.Status[*meshv1.MeshServiceStatus](service).GetDataplaneProxies()
			if counts.GetConnected() != c.connected || counts.GetHealthy() != c.healthy ||
				counts.GetTotal() != 2 {
				t.Errorf("%v %v: counts %v", c.a.Spec, c.b.Spec, counts)
			}
			if got := mesh.Spec[*meshv1.MeshService](service).GetState(); got != c.state {
				t.Errorf("%v %v: state %s, want %s", c.a.Spec, c.b.Spec, got, c.state)
			}
		}
		w.settled()
	})
}

func TestHandWrittenServiceBlocksGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		hand := &mesh.Resource{
			Key: serviceKey("web"),
			Spec: &meshv1.MeshService{
				Selector: &meshv1.MeshService_Selector{
					DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
						MatchLabels: map[string]string{"app": "web"}}},
				Ports: []*meshv1.ServicePort{{
					Port:       9,
					TargetPort: &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: 80}},
				}},
			},
		}
		w.put(hand)
		dp := dataplane("a", inbound("web", 80))
		dp.Labels = map[string]string{"app": "web"}
		w.put(dp)
		got := w.get(serviceKey("web"))
		spec := mesh.Spec[*meshv1.MeshService](got)
		if got.Labels[mesh.LabelManagedBy] != "" || spec.GetPorts()[0].GetPort() != 9 {
			t.Errorf("the hand-written service was taken over: %v", got)
		}
		if spec.GetState() != "Available" || len(spec.GetIdentities()) != 1 {
			t.Errorf("state and identities were not computed: %v", spec)
		}
		w.remove(hand.Key)
		if got := w.get(serviceKey("web")); got == nil || got.Labels[mesh.LabelManagedBy] == "" {
			t.Errorf("after the hand-written one went, the generator should take over: %v", got)
		}
		w.settled()
	})
}

func TestGraceAndAddressOfIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		dp := dataplane("a", inbound("web", 80))
		w.put(dp)
		ip := w.address(serviceKey("web")).GetIp()
		w.remove(dp.Key)
		service := w.get(serviceKey("web"))
		if service.Labels[mesh.LabelGraceStarted] == "" {
			t.Fatal("a service without Dataplanes has no stamp")
		}
		if len(mesh.Spec[*meshv1.MeshService](service).GetIdentities()) != 1 {
			t.Error("identities went with the last Dataplane")
		}
		time.Sleep(59 * time.Minute) // virtual time
		synctest.Wait()
		if w.get(serviceKey("web")) == nil {
			t.Fatal("deleted before the grace period was over")
		}
		w.put(dp)
		if w.get(serviceKey("web")).Labels[mesh.LabelGraceStarted] != "" {
			t.Error("the stamp is not cleared by a Dataplane that returns")
		}
		w.remove(dp.Key)
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if w.get(serviceKey("web")) != nil {
			t.Fatal("still there after the grace period")
		}
		if va := w.address(serviceKey("web")); va.GetReleased() == nil || va.GetIp() != ip {
			t.Errorf("the address is not in quarantine: %v", va)
		}
		w.put(dp)
		if va := w.address(serviceKey("web")); va.GetReleased() != nil || va.GetIp() != ip {
			t.Errorf("the destination returned and has %v, want its former address %s", va, ip)
		}
		w.remove(dp.Key)
		time.Sleep(2*time.Hour + 2*time.Second)
		synctest.Wait()
		if va := w.address(serviceKey("web")); va != nil {
			t.Errorf("the quarantine is over, yet there is %v", va)
		}
		w.settled()
	})
}

func TestShortRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) {
			c.Prefixes = map[mesh.Kind]netip.Prefix{
				mesh.KindMeshService: netip.MustParsePrefix("241.0.0.0/30")}
		})
		a, b, c, d := dataplane("a", inbound("a", 1)), dataplane("b", inbound("b", 1)),
			dataplane("c", inbound("c", 1)), dataplane("d", inbound("d", 1))
		w.put(a, b, c, d)
		var have int
		for _, n := range []string{"a", "b", "c", "d"} {
			if w.address(serviceKey(n)) != nil {
				have++
			}
		}
		if have != 3 {
			t.Fatalf("%d of 4 have an address, want 3 of a range with 3", have)
		}
		w.commit(store.Delete{Key: a.Key}, store.Delete{Key: b.Key}, store.Delete{Key: c.Key})
		w.commit(store.Delete{Key: serviceKey("a")}, store.Delete{Key: serviceKey("b")},
			store.Delete{Key: serviceKey("c")})
		// Something has to touch d: its own change.
		d = d.Clone()
		d.Spec.(*meshv1.Dataplane).Networking.Inbound[0].Name = "x"
		w.put(d)
		if va := w.address(serviceKey("d")); va == nil {
			t.Error("a quarantined address is not taken although the range is short")
		}
	})
}

func TestModeDisabledAndBadNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.put(dataplane("a", inbound("web", 80), inbound("Not_Dns", 81)))
		if w.get(serviceKey("Not_Dns")) != nil {
			t.Error("a service of a bad name was generated")
		}
		off := &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindMesh, Name: "default"},
			Spec: &meshv1.Mesh{MeshServices: &meshv1.Mesh_MeshServices{Mode: "Disabled"}},
		}
		w.put(off)
		if w.get(serviceKey("web")) != nil {
			t.Error("mode Disabled leaves generated services")
		}
		w.put(&mesh.Resource{Key: off.Key, Spec: &meshv1.Mesh{}})
		if w.get(serviceKey("web")) == nil {
			t.Error("the service is not generated again")
		}
		w.settled()
	})
}

func TestHostnameCollisionAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.put(hostnames("same", "MeshService", "same.mesh"),
			hostnames("bad", "MeshService", `{{ label "no/such" }}.mesh`))
		w.put(dataplane("a", inbound("older", 80)))
		time.Sleep(time.Second)
		w.put(dataplane("b", inbound("newer", 80)))
		if got := w.address(serviceKey("older")).GetHostnames(); !slices.Equal(got, []string{"same.mesh"}) {
			t.Errorf("the oldest has %v", got)
		}
		if got := w.address(serviceKey("newer")).GetHostnames(); len(got) != 0 {
			t.Errorf("the newer has %v", got)
		}
		var reasons []string
		for _, g := range mesh.Status[*meshv1.MeshServiceStatus](
			w.get(serviceKey("newer"))).GetHostnameGenerators() {
			reasons = append(reasons,
				g.GetHostnameGeneratorRef().GetCoreName()+" "+g.GetConditions()[0].GetReason())
		}
		if want := []string{"bad TemplateError", "same Collision"}; !slices.Equal(reasons, want) {
			t.Errorf("conditions %v, want %v", reasons, want)
		}
		w.commit(store.Delete{Key: mesh.Key{
			Kind: mesh.KindDataplane,
			Mesh: "default",
			Zone: zone,
			Name: "a",
		}}, store.Delete{Key: serviceKey("older")})
		if got := w.address(serviceKey("newer")).GetHostnames(); !slices.Equal(got, []string{"same.mesh"}) {
			t.Errorf("the owner went, and the next has %v", got)
		}
		w.settled()
	})
}

func TestSyncedDestinations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		other := &mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "eu-west", Name: "web"},
			Labels: map[string]string{mesh.LabelOrigin: mesh.OriginZone},
			Spec:   &meshv1.MeshService{State: "Available"},
		}
		multi := &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "web"},
			Spec: &meshv1.MeshMultiZoneService{},
		}
		synced := hostnames("synced", "MeshService", "{{ .Name }}.svc.{{ .Zone }}.mesh.local")
		synced.Spec.(*meshv1.HostnameGenerator).Selector.MeshService.MatchLabels = map[string]string{
			mesh.LabelOrigin: mesh.OriginGlobal}
		w.put(other, multi, synced,
			hostnames("multi", "MeshMultiZoneService", "{{ .Name }}.mzsvc.mesh.local"),
			dataplane("a", inbound("web", 80)))
		if va := w.address(other.Key); !slices.Equal(va.GetHostnames(),
			[]string{"web.svc.eu-west.mesh.local"}) {
			t.Errorf("other zone's service: %v", va)
		}
		if va := w.address(multi.Key); va.GetIp() != "243.0.0.1" ||
			!slices.Equal(va.GetHostnames(), []string{"web.mzsvc.mesh.local"}) {
			t.Errorf("multi-zone service: %v", va)
		}
		if va := w.address(serviceKey("web")); len(va.GetHostnames()) != 0 {
			t.Errorf("own service matched a selector of origin global: %v", va)
		}
		if w.get(other.Key).Status != nil {
			t.Error("the status of another zone's service was written")
		}
		w.settled()
	})
}

// TestIncrementalEqualsRebuild runs random changes; after each, a reconciler that starts from
// scratch has nothing to do.
func TestIncrementalEqualsRebuild(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t, func(c *Config) {
					c.Prefixes = map[mesh.Kind]netip.Prefix{
						mesh.KindMeshService: netip.MustParsePrefix("241.0.0.0/28")}
				})
				pick := func(in ...string) string { return in[rnd.IntN(len(in))] }
				names := []string{"a", "b", "c", "d"}
				for range 120 {
					switch rnd.IntN(10) {
					case 0, 1, 2:
						dp := dataplane("dp-"+pick(names...), inbound(pick(names...), uint32(80+rnd.IntN(2))),
							inbound(pick(names...), 90))
						dp.Labels = map[string]string{"app": pick("x", "y")}
						w.put(dp)
					case 3:
						w.remove(dataplane("dp-" + pick(names...)).Key)
					case 4:
						w.put(insight("dp-"+pick(names...), pick("Online", "Lost", "Draining"),
							pick("80", "90")))
					case 5:
						w.put(&mesh.Resource{
							Key: serviceKey("hand-" + pick(names...)),
							Spec: &meshv1.MeshService{
								Selector: &meshv1.MeshService_Selector{
									DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
										MatchLabels: map[string]string{"app": pick("x", "y")}}},
							},
						})
					case 6:
						w.remove(serviceKey(pick("hand-a", "hand-b", "a", "b")))
					case 7:
						w.put(hostnames("g-"+pick("1", "2"), pick("MeshService", "MeshMultiZoneService"),
							pick("{{ .Name }}.mesh", "same.mesh", `{{ label "app" }}.mesh`)))
					case 8:
						w.remove(mesh.Key{Kind: mesh.KindHostnameGenerator, Name: "g-" + pick("1", "2")})
					case 9:
						w.put(&mesh.Resource{
							Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"},
							Spec: &meshv1.Mesh{
								MeshServices: &meshv1.Mesh_MeshServices{Mode: pick("", "Disabled",
									"Everywhere", "Exclusive")},
								Mtls: &meshv1.Mesh_Mtls{EnabledBackend: pick("", "ca")},
							},
						})
					}
					time.Sleep(time.Duration(rnd.IntN(20)) * time.Minute)
					synctest.Wait()
					w.settled()
					w.unique()
				}
			})
		})
	}
}

// unique fails if two destinations share an address or two of one kind a hostname.
func (w *world) unique() {
	w.t.Helper()
	ips, hosts := map[string]string{}, map[string]string{}
	for r := range w.rep.View().List(mesh.KindVirtualAddress, "") {
		va := mesh.Spec[*meshv1.VirtualAddress](r)
		if other, ok := ips[va.GetIp()]; ok {
			w.t.Fatalf("%s and %s share %s", r.Key, other, va.GetIp())
		}
		ips[va.GetIp()] = r.Key.String()
		for _, h := range va.GetHostnames() {
			h = va.GetDestination().GetKind() + "/" + h
			if other, ok := hosts[h]; ok {
				w.t.Fatalf("%s and %s share hostname %s", r.Key, other, h)
			}
			hosts[h] = r.Key.String()
		}
	}
}

// TestPortsAreTheUnionOfTheInstances: a port that one instance alone serves is there while it is, comes back
// with it, and does not make the others unhealthy; a condition says who lacks it.
func TestPortsAreTheUnionOfTheInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		older, newer := dataplane(
			"older",
			inbound("web", 80),
		), dataplane(
			"newer",
			inbound("web", 80),
			inbound("web", 81),
		)
		check := func(what string, ports []uint32, healthy uint32, condition string) {
			t.Helper()
			service := w.get(serviceKey("web"))
			var got []uint32
			for _, p := range mesh.Spec[*meshv1.MeshService](service).GetPorts() {
				got = append(got, p.GetPort())
			}
			status := mesh.Status[*meshv1.MeshServiceStatus](service)
			var said string
			for _, c := range status.GetConditions() {
				said += c.GetType() + "=" + c.GetStatus() + " " + c.GetMessage()
			}
			if !slices.Equal(got, ports) || status.GetDataplaneProxies().GetHealthy() != healthy ||
				said != condition {
				t.Errorf(
					"%s: ports %v, %d healthy, %q",
					what,
					got,
					status.GetDataplaneProxies().GetHealthy(),
					said,
				)
			}
		}
		w.put(older, insight("older", "Online"))
		check("one instance", []uint32{80}, 1, "")
		w.put(newer, insight("newer", "Online"))
		check("one adds a port", []uint32{80, 81}, 2, "PortsServed=False older lacks 81")
		w.remove(newer.Key)
		check("it restarts", []uint32{80}, 1, "")
		w.put(newer)
		check("it is back", []uint32{80, 81}, 2, "PortsServed=False older lacks 81")
		w.remove(older.Key)
		check("the last old one has gone", []uint32{80, 81}, 1, "")
		w.settled()
	})
}
