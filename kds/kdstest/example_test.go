package kdstest_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/kds/kdstest"
)

// A script connects a zone and writes a policy at global; its output shows every frame in order.
func Example() {
	script := kdstest.NewScript(kdstest.Config{Zones: []string{"east"}})
	defer script.World.Close()

	script.Run("connect east\nstabilize")
	fmt.Print(script.Run("put global slow-backend kind=MeshTimeout\nstabilize\nshow east"))

	// Output:
	// global->east sends Delta{0..1 +MeshTimeout/slow-backend@1}
	// global->east applies 1: put MeshTimeout/slow-backend, cursor
	// global->east answers Ack{1}
	// east->global sends Bookmark{1}
	// east->global answers Ack{1}
	// east at 1:
	//   MeshTimeout/slow-backend@1
}
