package delivery

import (
	"context"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, err := embedded.Open(embedded.Config{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		policy := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"}
		other := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "old"}
		foreign := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Zone: "east", Name: "z"}
		ctx, cancel := context.WithCancel(context.Background())
		ops := []store.Op{store.PutStatus{
			Key:    other,
			Status: &meshv1.DeliveryStatus{Zones: []*meshv1.ZoneDelivery{{Zone: "west", State: Refused}}},
		}}
		for _, k := range []mesh.Key{policy, other, foreign} {
			ops = append(ops, store.Put{Resource: &mesh.Resource{Key: k, Spec: &meshv1.MeshTimeout{}}})
		}
		if _, err := st.Commit(ctx, store.Txn{Ops: ops}); err != nil {
			t.Fatal(err)
		}
		rep := replica.New(replica.Config{Store: st})
		w := New(Config{Store: st, Replica: rep, Owns: func(k mesh.Key) bool { return k.Zone == "" }})
		done := make(chan error, 2)
		go func() { done <- rep.Run(ctx) }()
		go func() { done <- w.Run(ctx) }()
		defer func() {
			cancel()
			<-done
			<-done
			_ = st.Close()
		}()
		zones := func(k mesh.Key) []*meshv1.ZoneDelivery {
			t.Helper()
			synctest.Wait()
			r, err := st.Get(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			return mesh.Status[*meshv1.DeliveryStatus](r).GetZones()
		}
		set := func(fill func(Problems)) {
			p := Problems{}
			fill(p)
			w.Set(p)
		}
		set(func(p Problems) {
			p.Nack(policy, "east", "b", "no")
			p.Nack(policy, "east", "a", "no")
			p.Refuse(policy, "west", "spec.to", "unknown field")
			p.Refuse(foreign, "west", "", "x")
		})
		got := zones(policy)
		if len(got) != 2 || len(got[0].GetProxies()) != 2 || got[0].GetProxies()[0] != "a" ||
			got[1].GetField() != "spec.to" {
			t.Errorf("deliveries %v", got)
		}
		if got := zones(other); len(got) != 0 {
			t.Errorf("a refusal that ended before the start is still there: %v", got)
		}
		if got := zones(foreign); len(got) != 0 {
			t.Errorf("the status of another's policy was written: %v", got)
		}
		before := rep.View().Revision()
		set(func(p Problems) {
			p.Nack(policy, "east", "a", "no")
			p.Nack(policy, "east", "b", "no")
			p.Refuse(policy, "west", "spec.to", "unknown field")
		})
		synctest.Wait()
		if got := rep.View().Revision(); got != before {
			t.Error("the same problems were written again")
		}
		set(func(Problems) {})
		if got := zones(policy); len(got) != 0 {
			t.Errorf("not cleared: %v", got)
		}
	})
}
