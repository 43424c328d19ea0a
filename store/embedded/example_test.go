package embedded_test

import (
	"context"
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
)

// A store in memory keeps everything but durability; give Dir and Sealer instead of InMemory for a file.
func Example() {
	ctx := context.Background()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()

	watch, err := st.Watch(ctx, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer watch.Close()

	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "slow-backend"}
	for _, op := range []store.Op{
		store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}},
		store.Delete{Key: key},
	} {
		if _, err := st.Commit(ctx, store.Txn{Author: "user:alice", Ops: []store.Op{op}}); err != nil {
			log.Fatal(err)
		}
		commit, err := watch.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		deleted := commit.Changes[0].Type == store.ChangeDelete
		fmt.Println(commit.Revision, commit.Author, commit.Changes[0].Key.Name, "deleted:", deleted)
	}

	// Output:
	// 1 user:alice slow-backend deleted: false
	// 2 user:alice slow-backend deleted: true
}
