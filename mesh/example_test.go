package mesh_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
)

func ExampleParseKey() {
	key, err := mesh.ParseKey("MeshService/default/east//web")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(key.Zone, key.Name, key.KRI("http"))
	// Output: east web kri_msvc_default_east__web_http
}
