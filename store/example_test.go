package store_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
)

// A transaction may demand that what it replaces is still at the revision that its writer has read.
func Example() {
	ctx := context.Background()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()

	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "slow-backend"}
	create := store.Txn{
		Author: "user:alice",
		Checks: []store.Check{store.KeyAt{Key: key, Revision: 0}}, // it must not exist yet
		Ops:    []store.Op{store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}}},
	}
	res, err := st.Commit(ctx, create)
	fmt.Println("revision", res.Revision, err)

	_, err = st.Commit(ctx, create)
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		fmt.Println("conflict: it is at revision", conflict.Revision)
	}

	// Output:
	// revision 1 <nil>
	// conflict: it is at revision 1
}
