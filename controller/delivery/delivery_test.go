package delivery

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func nacked(proxy, reason string) *meshv1.Rejection {
	return &meshv1.Rejection{
		Stage:  meshv1.Rejection_STAGE_PROXY,
		Reason: reason,
		Proxy:  mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Name: proxy}.Proto(),
	}
}

func refused(zone, field, reason string) *meshv1.Rejection {
	return &meshv1.Rejection{
		Stage:  meshv1.Rejection_STAGE_STORE,
		Zone:   zone,
		Field:  field,
		Reason: reason,
	}
}

func TestProblemsNameTenProxies(t *testing.T) {
	t.Parallel()

	policy := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"}
	p := Problems{}
	for i := range 12 {
		p.Add(policy, "east", nacked(strconv.Itoa(i), "no"))
	}
	p.Add(policy, "east", nacked("0", "never"))
	p.Add(policy, "west", nacked("0", "no"))
	if got := len(p[policy]); got != 12 {
		t.Errorf("%d rejections, want ten for one reason and two more", got)
	}
}

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
			Status: &meshv1.DeliveryStatus{Rejections: []*meshv1.Rejection{refused("west", "", "")}},
		}}
		for _, k := range []mesh.Key{policy, other, foreign} {
			ops = append(ops, store.Put{Resource: &mesh.Resource{Key: k, Spec: &meshv1.MeshTimeout{}}})
		}
		if _, err := st.Commit(ctx, store.Txn{Ops: ops}); err != nil {
			t.Fatal(err)
		}
		rep := replica.New(replica.Config{Store: st})
		w := New(Config{
			Deps: reconcile.Deps{Store: st, Replica: rep},
			Owns: func(k mesh.Key) bool { return k.Zone == "" },
		})
		done := make(chan error, 2)
		go func() { done <- rep.Run(ctx) }()
		go func() { done <- w.Run(ctx) }()
		defer func() {
			cancel()
			<-done
			<-done
			_ = st.Close()
		}()
		rejections := func(k mesh.Key) []*meshv1.Rejection {
			t.Helper()
			synctest.Wait()
			r, err := st.Get(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			return mesh.Status[*meshv1.DeliveryStatus](r).GetRejections()
		}
		set := func(fill func(Problems)) {
			p := Problems{}
			fill(p)
			w.Set(p)
		}
		set(func(p Problems) {
			p.Add(policy, "east", nacked("b", "no"))
			p.Add(policy, "east", nacked("a", "no"))
			p.Add(policy, "west", refused("", "spec.to", "unknown field"))
			p.Add(foreign, "west", refused("", "", "x"))
		})
		got := rejections(policy)
		if len(got) != 3 || got[0].GetProxy().GetName() != "a" || got[1].GetProxy().GetName() != "b" ||
			got[2].GetField() != "spec.to" || got[2].GetZone() != "west" {
			t.Errorf("rejections %v", got)
		}
		if got := rejections(other); len(got) != 0 {
			t.Errorf("a rejection that ended before the start is still there: %v", got)
		}
		if got := rejections(foreign); len(got) != 0 {
			t.Errorf("the status of another's policy was written: %v", got)
		}
		before := rep.View().Revision()
		set(func(p Problems) {
			again := nacked("a", "no")
			again.Revision, again.Resource = 7, "another"
			p.Add(policy, "east", nacked("a", "no"))
			p.Add(policy, "east", again)
			p.Add(policy, "east", nacked("b", "no"))
			p.Add(policy, "west", refused("", "spec.to", "unknown field"))
		})
		synctest.Wait()
		if got := rep.View().Revision(); got != before {
			t.Error("the same problems were written again")
		}
		set(func(Problems) {})
		if got := rejections(policy); len(got) != 0 {
			t.Errorf("not cleared: %v", got)
		}
	})
}
