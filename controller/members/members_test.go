package members

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	t   *testing.T
	st  store.Store
	rep *replica.Replica
	agg *Aggregator
}

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: st, rep: replica.New(replica.Config{Store: st})}
	w.agg = New(reconcile.Deps{Store: st, Replica: w.rep})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.rep.Run(ctx) }()
	go func() { done <- w.agg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		}
		_ = st.Close()
	})
	return w
}

func (w *world) commit(ops ...store.Op) {
	w.t.Helper()
	if _, err := w.st.Commit(context.Background(), store.Txn{Ops: ops}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func service(meshName, zone, name, state string, healthy, total uint32) []store.Op {
	k := mesh.Key{Kind: mesh.KindMeshService, Mesh: meshName, Zone: zone, Name: name}
	return []store.Op{
		store.Put{Resource: &mesh.Resource{
			Key:    k,
			Labels: map[string]string{"app": name},
			Spec: &meshv1.MeshService{
				Ports: []*meshv1.ServicePort{{Port: 80}}, State: state,
				Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: name}},
			},
		}},
		store.PutStatus{
			Key: k,
			Status: &meshv1.MeshServiceStatus{DataplaneProxies: &meshv1.ProxyCounts{
				Healthy: healthy,
				Total:   total,
			}},
		},
	}
}

func multi(name string, labels map[string]string) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: name},
		Spec: &meshv1.MeshMultiZoneService{
			Selector: &meshv1.MeshMultiZoneService_Selector{
				MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{MatchLabels: labels}}},
	}
}

func (w *world) status(name string) *meshv1.MeshMultiZoneServiceStatus {
	w.t.Helper()
	r, err := w.st.Get(context.Background(), multi(name, nil).Key)
	if err != nil {
		w.t.Fatal(err)
	}
	return mesh.Status[*meshv1.MeshMultiZoneServiceStatus](r)
}

func TestMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.commit(store.Put{Resource: multi("web", map[string]string{mesh.LabelDisplayName: "web"})})
		if c := w.status("web").GetConditions()[0]; c.GetStatus() != "False" ||
			c.GetReason() != "NoMatchesFound" {
			t.Errorf("condition %v", c)
		}
		w.commit(service("default", "west", "web", "Available", 2, 3)...)
		w.commit(service("default", "east", "web", "", 0, 1)...)
		w.commit(service("other", "east", "web", "Available", 1, 1)...)
		w.commit(service("default", "east", "db", "Available", 1, 1)...)
		id := []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "web"}}
		want := []*meshv1.MeshMultiZoneServiceStatus_Member{
			{
				Name:       "web",
				Zone:       "east",
				Mesh:       "default",
				Ports:      []uint32{80},
				Identities: id,
				Total:      1,
				State:      "Unavailable",
			},
			{
				Name:       "web",
				Zone:       "west",
				Mesh:       "default",
				Ports:      []uint32{80},
				Identities: id,
				Healthy:    2,
				Total:      3,
				State:      "Available",
			},
		}
		if diff := cmp.Diff(want, w.status("web").GetMeshServices(), protocmp.Transform()); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
		// A status alone counts: weights follow healthy instances.
		w.commit(service("default", "west", "web", "Available", 3, 3)[1])
		if got := w.status("web").GetMeshServices()[1].GetHealthy(); got != 3 {
			t.Errorf("healthy %d, want 3", got)
		}
		off := false
		w.commit(store.Put{Resource: &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindZone, Name: "east"},
			Spec: &meshv1.Zone{Enabled: &off},
		}})
		if got := w.status("web").GetMeshServices(); len(got) != 1 || got[0].GetZone() != "west" {
			t.Errorf("members with zone east disabled: %v", got)
		}
		w.commit(store.Put{Resource: multi("web", map[string]string{"app": "db"})})
		if got := w.status("web").GetMeshServices(); len(got) != 0 {
			t.Errorf("members by the new selector: %v", got)
		}
	})
}

// TestIncrementalEqualsRebuild: after random changes an aggregator that starts from scratch has
// nothing to write.
func TestIncrementalEqualsRebuild(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				pick := func(in ...string) string { return in[rnd.IntN(len(in))] }
				w := newWorld(t)
				for range 200 {
					switch rnd.IntN(6) {
					case 0, 1:
						w.commit(service("default", pick("east", "west"), pick("a", "b", "c"),
							pick("", "Available"), rnd.Uint32N(3), 3)...)
					case 2:
						w.commit(store.Delete{Key: mesh.Key{
							Kind: mesh.KindMeshService,
							Mesh: "default",
							Zone: pick("east", "west"),
							Name: pick("a", "b", "c"),
						}})
					case 3:
						w.commit(store.Put{Resource: multi(pick("x", "y"),
							map[string]string{pick("app", mesh.LabelZone): pick("a", "b", "east")})})
					case 4:
						w.commit(store.Delete{Key: multi(pick("x", "y"), nil).Key})
					case 5:
						on := rnd.IntN(2) == 0
						w.commit(store.Put{Resource: &mesh.Resource{
							Key:  mesh.Key{Kind: mesh.KindZone, Name: pick("east", "west")},
							Spec: &meshv1.Zone{Enabled: &on},
						}})
					}
					fresh := newState()
					fresh.apply(replica.Batch{View: w.rep.View(), Reset: true})
					if ops := fresh.statuses(); len(ops) > 0 {
						t.Fatalf("a rebuild would still write %v", ops)
					}
				}
			})
		})
	}
}
