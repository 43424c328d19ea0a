package hostname_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh/hostname"
)

func ExampleTemplate_Render() {
	t, err := hostname.Parse("{{ .DisplayName }}.{{ label \"team\" }}.mesh\n")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Render(hostname.Input{DisplayName: "web"}, map[string]string{"team": "shop"}))
	// Output: web.shop.mesh <nil>
}
