package replica_test

import (
	"context"
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A replica follows a store. Wait returns a view that contains one's own write.
func Example() {
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()

	ctx, cancel := context.WithCancel(context.Background())
	rep := replica.New(replica.Config{Store: st})
	ended := make(chan error, 1)
	go func() { ended <- rep.Run(ctx) }()

	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "slow-backend"}
	res, err := st.Commit(ctx, store.Txn{
		Ops: []store.Op{store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	view, err := rep.Wait(ctx, res.Revision)
	if err != nil {
		log.Fatal(err)
	}
	for r := range view.List(mesh.KindMeshTimeout, "default") {
		fmt.Println(r.Key.Name, "at revision", r.Revision)
	}

	cancel()
	<-ended
	// Output: slow-backend at revision 1
}
