package codec_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh/codec"
)

func ExampleDecode() {
	docs, err := codec.Decode([]byte(`
type: MeshTimeout
name: slow
spec:
  to:
  - targetRef: {kind: Mesh}
    default: {idleTimeout: 90s}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := codec.EncodeYAML(docs[0].Resource)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(text))

	_, err = codec.Decode([]byte("type: MeshTimeout\nname: slow\nspec: {too: []}"))
	fmt.Println(err)
	// Output:
	// type: MeshTimeout
	// mesh: default
	// name: slow
	// kri: kri_mt_default___slow_
	// spec:
	//   to:
	//     - targetRef:
	//         kind: Mesh
	//       default:
	//         idleTimeout: 1m30s
	// document 1 (MeshTimeout slow): spec.too: unknown field: did you mean to? (line 3)
}
