package kds_test

import (
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/kds/kdstest"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A Source at global and a Sink in the zone east exchange frames by hand: the Sink gets the state as one
// transaction to commit, and acknowledges it.
func Example() {
	timeout, err := kdstest.Make(mesh.KindMeshTimeout, "", "slow-backend", 1)
	if err != nil {
		log.Fatal(err)
	}
	timeout.Revision = 1

	agreed := kds.Agree(kds.Schemas(), kds.Schemas())
	source := kds.NewSource(kds.SourceConfig{
		StoreID: "store-of-global",
		Schema:  agreed.Schema,
		View:    &kds.View{Direction: kds.Down, Zone: "east", Withheld: agreed.Withheld},
	})
	source.Reset(replica.NewView(1, timeout), kds.ResetFirst)

	sink, err := kds.NewSink(kds.SinkConfig{
		Direction: kds.Down,
		Zone:      "east",
		Author:    "global",
	}, nil, replica.NewView(0).All())
	if err != nil {
		log.Fatal(err)
	}
	sink.Agreed(agreed)

	for {
		frame, err := source.Next()
		if err != nil {
			log.Fatal(err)
		}
		if frame == nil {
			break
		}
		if err := sink.Recv(frame); err != nil {
			log.Fatal(err)
		}
	}

	apply, _ := sink.Next()
	fmt.Println("snapshot:", apply.Snapshot, "revision:", apply.Revision, "resources:", apply.Items)

	// Here a host commits apply.Txn to its store.
	if err := sink.Applied(); err != nil {
		log.Fatal(err)
	}
	for _, frame := range sink.Frames() {
		if _, err := source.Recv(frame); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("acknowledged:", source.Acked())

	// Output:
	// snapshot: true revision: 1 resources: 1
	// acknowledged: 1
}
