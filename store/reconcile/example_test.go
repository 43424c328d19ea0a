package reconcile_test

import (
	"context"
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A controller that keeps a MeshRetry beside every MeshTimeout (see copier) runs on a loop.
func Example() {
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	rep := replica.New(replica.Config{Store: st})
	loop := reconcile.New(reconcile.Config{
		Name:       "copier",
		Author:     "system:copier",
		Deps:       reconcile.Deps{Store: st, Replica: rep},
		Controller: &copier{},
		Follow:     true,
	})

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- rep.Run(ctx) }()
	go func() { ended <- loop.Run(ctx) }()

	res, err := st.Commit(ctx, store.Txn{Ops: []store.Op{put(source("a"), "1")}})
	if err != nil {
		log.Fatal(err)
	}
	if err := loop.WaitUntilReconciled(ctx, res.Revision); err != nil {
		log.Fatal(err)
	}
	copied, err := st.Get(ctx, mesh.Key{Kind: mesh.KindMeshRetry, Mesh: "default", Name: "a"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(copied.Labels["value"])

	cancel()
	<-ended
	<-ended
	// Output: 1
}
