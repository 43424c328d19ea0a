package ca_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/identity/ca"
)

func ExampleParseLifetime() {
	d, err := ca.ParseLifetime("2d")
	fmt.Println(d, err)

	_, err = ca.ParseLifetime("soon")
	fmt.Println(err)
	// Output:
	// 48h0m0s <nil>
	// "soon" is not a lifetime: write a number and one of y, w, d, h, m, s, ms, such as 24h
}
