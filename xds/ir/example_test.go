package ir_test

import (
	"fmt"
	"time"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// A policy part with a value that is more than scalars is comparable, and can be the key of a map:
// two parts with equal retries are one cluster, one listener or one set of routes.
func ExampleShare() {
	part := func(base time.Duration) ir.RoutePolicy {
		return ir.RoutePolicy{
			Retry: ir.Share(ir.Retry{
				On:    []string{"gateway-error"},
				Count: 5,
				Base:  base,
			}),
		}
	}

	one, same, other := part(25*time.Millisecond), part(25*time.Millisecond), part(time.Second)
	fmt.Println(one == same)
	fmt.Println(one == other)

	// Output:
	// true
	// false
}
