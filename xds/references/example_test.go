package references_test

import (
	"fmt"
	"log"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/xds/references"
)

// A client that gets this cluster asks for its endpoints.
func ExampleIndex_Of() {
	body, err := proto.Marshal(&clusterv3.Cluster{
		Name:                 "web",
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
	})
	if err != nil {
		log.Fatal(err)
	}
	var index references.Index
	names, err := index.Of(references.Cluster, "web", "1", body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(names.Subscribe[references.Endpoint])
	// Output: [web]
}
