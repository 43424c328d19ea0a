package graph_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/xds/graph"
)

type name string

func (n name) String() string { return string(n) }

// Prices are inputs; the total of an order is derived from those that it names. A price that changes
// recomputes the totals that read it, and no others.
func Example() {
	prices := map[name]int{"apple": 2, "pear": 3, "plum": 1}
	orders := map[name][]name{"small": {"apple"}, "large": {"apple", "pear"}}

	g := graph.New()
	price := graph.NewInput[name](g, "price")
	total := graph.NewQuery(g, "total", graph.Same[int], func(r *graph.Reader, order name) (int, error) {
		sum := 0
		for _, item := range orders[order] {
			price.Note(r, item)
			sum += prices[item]
		}
		return sum, nil
	})

	g.Begin()
	small, large := total.Pin("small"), total.Pin("large")
	fmt.Println(small.Get(), large.Get())

	for _, cell := range []*graph.Cell[int]{small, large} {
		cell.OnChange(func() { fmt.Println("total of", cell.Key(), "is now", cell.Get()) })
	}

	g.Begin()
	prices["pear"] = 4
	price.MarkDirty("pear")
	prices["plum"] = 9
	price.MarkDirty("plum")
	g.Recompute()
	// Output:
	// 2 5
	// total of large is now 6
}
