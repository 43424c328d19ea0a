package compile_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Traffic to another zone goes through its ingress addresses, which share the zone's weight: the
// number of its healthy instances.
func ExampleWeigh() {
	remotes := []compile.Remote{
		{
			Zone:      "north",
			Healthy:   1,
			Ingresses: []ir.Endpoint{{Address: "10.1.0.1", Port: 10001, Zone: "north"}},
		},
		{
			Zone:    "west",
			Healthy: 4,
			Ingresses: []ir.Endpoint{
				{Address: "10.2.0.1", Port: 10001, Zone: "west"},
				{Address: "10.2.0.2", Port: 10001, Zone: "west"},
			},
		},
	}

	for _, e := range compile.Weigh(remotes) {
		fmt.Println(e.Zone, e.Address, "weight", e.Weight, "priority", e.Priority)
	}

	// Output:
	// north 10.1.0.1 weight 2 priority 1
	// west 10.2.0.1 weight 4 priority 1
	// west 10.2.0.2 weight 4 priority 1
}
