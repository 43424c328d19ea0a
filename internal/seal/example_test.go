package seal_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/meridian-mesh/meridian/internal/seal"
)

// A sealed value opens only with the context, here the resource's key, that it was sealed with.
func Example() {
	sealer, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize)) // in production: seal.LoadOrCreate
	if err != nil {
		log.Fatal(err)
	}
	sealed, err := sealer.Seal([]byte("password"), []byte("Secret/default/a"))
	if err != nil {
		log.Fatal(err)
	}

	plain, err := sealer.Open(sealed, []byte("Secret/default/a"))
	fmt.Printf("%s %v\n", plain, err)

	_, err = sealer.Open(sealed, []byte("Secret/default/b"))
	fmt.Println("as another resource:", err != nil)

	// Output:
	// password <nil>
	// as another resource: true
}
