package inspect

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a running engine over a store, with a feed for each of the zone's proxies.
type served struct {
	t       *testing.T
	ctx     context.Context
	store   store.Store
	replica *replica.Replica
	e       *xds.Engine
	proxies []mesh.Key
}

func serve(t *testing.T, rs []*mesh.Resource) *served {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{t: t, ctx: ctx, store: st, replica: replica.New(replica.Config{Store: st})}
	s.e = xds.New(xds.Config{Zone: zone, Replica: s.replica})
	done := make(chan struct{}, 2)
	go func() { _ = s.replica.Run(ctx); done <- struct{}{} }()
	go func() { _ = s.e.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		_ = st.Close()
	})
	s.write(rs)
	for _, r := range rs {
		if r.Key.Zone != zone || r.Key.Kind != mesh.KindDataplane && r.Key.Kind != mesh.KindZoneIngress {
			continue
		}
		s.proxies = append(s.proxies, r.Key)
		f := s.e.Open(delta.OpenRequest{Proxy: r.Key})
		t.Cleanup(f.Close)
		s.until(func() bool { _, ok := s.e.Config(r.Key); return ok })
	}
	slices.SortFunc(s.proxies, mesh.Key.Compare)
	return s
}

// write commits resources together and waits until the engine has made of them what it makes.
func (s *served) write(rs []*mesh.Resource) {
	s.t.Helper()
	txn := store.Txn{Author: "test"}
	for _, r := range rs {
		txn.Ops = append(txn.Ops, store.Put{Resource: r})
		if r.Status != nil {
			txn.Ops = append(txn.Ops, store.PutStatus{Key: r.Key, Status: r.Status})
		}
	}
	res, err := s.store.Commit(s.ctx, txn)
	if err != nil {
		s.t.Fatal(err)
	}
	s.until(func() bool { return s.e.Progress().Revision >= res.Revision })
	if _, err := s.replica.Wait(s.ctx, res.Revision); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a state of the engine.
func (s *served) until(ok func() bool) {
	for {
		changed := s.e.ProgressChanged()
		if ok() {
			return
		}
		<-changed
	}
}

func (s *served) tables() map[mesh.Key]*delta.Table {
	out := map[mesh.Key]*delta.Table{}
	for _, k := range s.proxies {
		table, ok := s.e.Config(k)
		if !ok {
			s.t.Fatalf("the engine has nothing for %s", k)
		}
		out[k] = table
	}
	return out
}

// randomWorld has what the policies of an xdstest.Author speak of, or some of it: services of
// several protocols with none to three instances, near and far, and proxies that call some of them.
func randomWorld(t *testing.T, r *rand.Rand) []*mesh.Resource {
	t.Helper()
	protocols := []string{"http", "http2", "grpc", "tcp"}
	text := "type: Mesh\nname: default\nmeshServices: {mode: Exclusive}\n"
	if mode := []string{"", "PERMISSIVE", "STRICT"}[r.IntN(3)]; mode != "" { // permissions need it
		text += "mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin, mode: " + mode + "}]}\n"
	}
	outbounds := func() string {
		out := ""
		for i, s := range protocols {
			if r.IntN(3) > 0 {
				out += fmt.Sprintf("  - {port: %d, backendRef: {kind: MeshService, name: %s, port: 8080}}\n",
					10001+i, s)
			}
		}
		if r.IntN(2) == 0 {
			out += "  - {port: 11000, backendRef: {kind: MeshMultiZoneService, name: multi, port: 8080}}\n"
		}
		if out == "" {
			return ""
		}
		return "  outbound:\n" + out
	}
	dataplane := func(name, address, labels, inbounds string) {
		text += fmt.Sprintf("---\ntype: Dataplane\nmesh: default\nname: %s\nlabels: {%s}\nnetworking:\n  "+
			"address: %s\n  inbound: [%s]\n%s",
			name, labels, address, inbounds, outbounds())
	}
	var own []string
	for i, s := range protocols {
		text += fmt.Sprintf("---\ntype: MeshService\nmesh: default\nname: %s\nlabels: "+
			"{kuma.io/display-name: "+
			"%s}\nspec: {selector: {dataplaneTags: {kuma.io/service: %s}}, "+
			"ports: [{name: main, port: 8080, targetPort: main, appProtocol: %s}]}\n", s, s, s, s)
		for n := range r.IntN(4) {
			dataplane(fmt.Sprintf("%s-%d", s, n), fmt.Sprintf("192.0.2.%d", 10*i+n), "app: "+s,
				fmt.Sprintf("{name: main, port: 8080, tags: {kuma.io/service: %s, kuma.io/protocol: %s, "+
					"version: v%d}}", s, s, n))
		}
		if r.IntN(2) == 0 {
			own = append(own,
				fmt.Sprintf("{name: %s, port: %d, tags: {kuma.io/service: %s, kuma.io/protocol: %s, "+
					"version: v1}}", s, 9000+i, s, s))
		}
	}
	own = append(own, "{name: last, port: 9100, tags: {kuma.io/service: last}}")
	dataplane("p", "192.0.2.200", "app: p", strings.Join(own, ", "))
	text += "---\ntype: MeshMultiZoneService\nmesh: default\nname: multi\nspec: {selector: {meshService: " +
		"{matchLabels: {kuma.io/display-name: http}}}, ports: [{name: main, port: 8080, " +
		"appProtocol: http}]}\n"
	rs := decode(t, text)
	for _, x := range rs {
		if x.Key.Kind == mesh.KindMeshMultiZoneService {
			status := &meshv1.MeshMultiZoneServiceStatus{}
			for _, z := range []string{zone, "west"} {
				if r.IntN(3) > 0 {
					status.MeshServices = append(status.MeshServices,
						&meshv1.MeshMultiZoneServiceStatus_Member{
							Name:    "http",
							Zone:    z,
							Mesh:    "default",
							Ports:   []uint32{8080},
							Healthy: 2,
							Total:   2,
						})
				}
			}
			x.Status = status
		}
	}
	for _, z := range []string{zone, "west"} {
		rs = append(rs, &mesh.Resource{
			Key: mesh.Key{Kind: mesh.KindZoneIngress, Zone: z, Name: "ingress"},
			Spec: &meshv1.ZoneIngress{
				Zone: z,
				Networking: &meshv1.ZoneIngress_Networking{
					Address:           "192.0.2.250",
					Port:              10001,
					AdvertisedAddress: "198.51.100.1",
					AdvertisedPort:    10001,
				},
			},
		})
	}
	return rs
}

// TestDiffIsWhatProxiesGet: in random worlds, what Diff says of random policies of every kind is
// what the engine that serves proxies changes when they are written: the same proxies, and of each
// type the same resources at the same proxies.
func TestDiffIsWhatProxiesGet(t *testing.T) {
	t.Parallel()
	var kinds []*mesh.KindInfo
	for _, k := range mesh.Kinds {
		if k.Policy != nil {
			kinds = append(kinds, k)
		}
	}
	concerned := map[mesh.Kind]int{}
	nothing := 0
	for seed := uint64(1); seed <= 20; seed++ {
		r := rand.New(rand.NewPCG(seed, 17))
		a := xdstest.NewAuthor(r)
		s := serve(t, randomWorld(t, r))
		for step := range 2 * len(kinds) {
			info := kinds[step%len(kinds)]
			name := fmt.Sprintf("x%d", r.IntN(2)) // some replace others
			if info.Kind == mesh.KindMeshHTTPRoute && r.IntN(2) == 0 {
				name = "route"
			}
			policies := []*mesh.Resource{a.Policy(info, name)}
			if other := kinds[r.IntN(len(kinds))]; r.IntN(3) == 0 && other != info {
				policies = append(policies, a.Policy(other, "y"))
			}
			said, err := Diff(s.replica.View(), zone, Change{Puts: policies}, 100, false)
			if err != nil {
				t.Fatal(err)
			}
			before := s.tables()
			s.write(policies)
			after := s.tables()

			var want, got []string
			resources := map[string]int{}
			for _, k := range s.proxies {
				diff := after[k].Diff(before[k])
				if diff.Empty() {
					continue
				}
				want = append(want, k.Name)
				for _, typ := range delta.Types {
					for _, res := range diff.Changed[typ] {
						action := "changed"
						if before[k].Lookup(typ, res.Name) == nil {
							action = "added"
						}
						resources[fmt.Sprint(typ, " ", res.Name, " ", action)]++
					}
					for _, res := range diff.Removed[typ] {
						resources[fmt.Sprint(typ, " ", res, " removed")]++
					}
				}
			}
			for _, k := range said.GetNames() {
				got = append(got, k.GetName())
			}
			slices.Sort(want)
			slices.Sort(got)
			told := map[string]int{}
			for _, res := range said.GetResources() {
				typ, action := codec.EnumWord(res.GetType()), codec.EnumWord(res.GetAction())
				told[typ+" "+res.GetName()+" "+action] += int(res.GetProxies())
				if len(res.GetNames()) != int(res.GetProxies()) {
					t.Errorf("%d names of %d proxies: %v", len(res.GetNames()), res.GetProxies(), res)
				}
			}
			where := fmt.Sprintf("seed %d, step %d, %s", seed, step, policies[0].Key)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s: proxies (-get +said)\n%s", where, diff)
			}
			if diff := cmp.Diff(resources, told); diff != "" {
				t.Fatalf("%s: resources (-get +said)\n%s", where, diff)
			}
			if int(said.GetProxies()) != len(s.proxies) || len(said.GetFailures()) > 0 {
				t.Errorf("%s: %d of %d proxies, failures %v", where, said.GetProxies(), len(s.proxies),
					said.GetFailures())
			}
			if len(want) == 0 {
				nothing++
			} else if len(policies) == 1 {
				concerned[info.Kind]++
			}
		}
	}
	t.Logf("%d changes without effect; with: %v", nothing, concerned)
	for _, k := range kinds {
		if concerned[k.Kind] == 0 {
			t.Errorf("no %s changed a proxy: the test saw too little (%v)", k.Kind,
				slices.Sorted(maps.Keys(concerned)))
		}
	}
	if nothing == 0 {
		t.Error("every change had an effect: the test saw too little")
	}
}
