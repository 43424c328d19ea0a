package txn_test

import (
	"fmt"
	"log"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// empty is the state of a store without resources.
type empty struct{}

func (empty) Resource(mesh.Key) *mesh.Resource { return nil }

func (empty) KindRevision(mesh.Kind, string) uint64 { return 0 }

// A group of transactions is evaluated against an overlay, so that the second sees what the first wrote.
func Example() {
	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "slow-backend"}
	create := store.Txn{
		Checks: []store.Check{store.KeyAt{Key: key, Revision: 0}}, // it must not exist yet
		Ops:    []store.Op{store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}}},
	}
	if err := txn.Validate(create); err != nil {
		log.Fatal(err)
	}

	state := txn.NewOverlay(empty{})
	for range 2 {
		effects, err := txn.Evaluate(state, create, 1, time.Unix(0, 0))
		if err != nil {
			fmt.Println("conflict")
			continue
		}
		state.Apply(effects.Changes, 1)
		fmt.Println("changes:", len(effects.Changes))
	}

	// Output:
	// changes: 1
	// conflict
}
