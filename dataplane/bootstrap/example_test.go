package bootstrap_test

import (
	"encoding/json"
	"fmt"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
)

// A sidecar that trusts its zone by a CA in a file.
func ExampleBuild() {
	data, err := bootstrap.Build(bootstrap.Config{
		NodeID:    "default.web-1",
		ProxyType: "dataplane",
		Host:      "zone.example",
		Port:      5678,
		CAFile:    "/etc/ssl/zone.pem",
		TokenFile: "/run/meridian/token",
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	var doc struct {
		Node   struct{ ID string }
		Static struct {
			Clusters []struct{ Name, Type string }
		} `json:"static_resources"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(doc.Node.ID, "asks", doc.Static.Clusters[0].Name, "of type", doc.Static.Clusters[0].Type)
	// Output: default.web-1 asks system_ads of type STRICT_DNS
}
