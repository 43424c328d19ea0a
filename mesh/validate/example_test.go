package validate_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
)

func ExampleResource() {
	docs, err := codec.Decode([]byte("type: MeshTimeout\nname: slow\nspec: {}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = validate.Resource(docs[0].Resource)
	fmt.Println(err)
	// Output: spec: needs at least one of to, rules and from
}
