package translate_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

// Endpoints of one zone are one locality of Envoy. A healthy one has no status, which is UNKNOWN: Envoy
// treats it as healthy.
func ExampleEndpoints() {
	assignment := translate.Endpoints(ir.Endpoints{
		Cluster: "backend",
		Endpoints: []ir.Endpoint{
			{Address: "10.0.0.1", Port: 8080, Weight: 1, Zone: "east"},
			{Address: "10.0.0.2", Port: 8080, Weight: 1, Zone: "east", Health: ir.Unhealthy},
		},
	})

	for _, locality := range assignment.GetEndpoints() {
		fmt.Println(assignment.GetClusterName(), locality.GetLocality().GetZone())
		for _, e := range locality.GetLbEndpoints() {
			address := e.GetEndpoint().GetAddress().GetSocketAddress()
			fmt.Println(address.GetAddress(), address.GetPortValue(), e.GetHealthStatus())
		}
	}

	// Output:
	// backend east
	// 10.0.0.1 8080 UNKNOWN
	// 10.0.0.2 8080 UNHEALTHY
}
