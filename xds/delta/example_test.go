package delta_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// Two tables share the segments that did not change; the difference of the others is what is sent.
func ExampleTable_Diff() {
	shared := delta.NewSegment([]*delta.Resource{delta.NewResource(delta.TypeCluster, "api", []byte("v1"))})
	before := &delta.Table{Segments: []*delta.Segment{
		shared,
		delta.NewSegment([]*delta.Resource{
			delta.NewResource(delta.TypeRoute, "api", []byte("v1")),
			delta.NewResource(delta.TypeRoute, "web", []byte("v1")),
		}),
	}}
	after := &delta.Table{Segments: []*delta.Segment{
		shared,
		delta.NewSegment([]*delta.Resource{delta.NewResource(delta.TypeRoute, "api", []byte("v2"))}),
	}}

	step := after.Diff(before)
	for _, t := range delta.Types {
		for _, r := range step.Changed[t] {
			fmt.Println("changed:", t, r.Name)
		}
		for _, name := range step.Removed[t] {
			fmt.Println("removed:", t, name)
		}
	}
	// Output:
	// changed: route api
	// removed: route web
}
