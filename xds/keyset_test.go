package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestSpanIsTheSetInOrder: whenever it is read, a keySet is what was added and not removed, in order,
// be it long or short.
func TestSpanIsTheSetInOrder(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s keySet
		want := map[mesh.Key]bool{}
		reads := 0
		for step := range 6000 {
			k := mesh.Key{
				Kind: mesh.KindDataplane,
				Mesh: "default",
				Name: fmt.Sprintf("dp-%03d", r.IntN(900)),
			}
			// It grows past the bound in the first half, and shrinks below it in the second.
			if there := r.IntN(10) < 8 == (step < 3000); there {
				s.add(k)
				want[k] = true
			} else {
				s.remove(k)
				delete(want, k)
			}
			if r.IntN(50) > 0 {
				continue
			}
			reads++
			if got := s.list(); !slices.Equal(got, slices.SortedFunc(maps.Keys(want), mesh.Key.Compare)) {
				t.Fatalf("seed %d, step %d: %d keys, want %d in order", seed, step, len(got), len(want))
			}
		}
		if reads == 0 {
			t.Fatal("nothing was read")
		}
	}
	var none *keySet
	if none.list() != nil {
		t.Error("a range that is not there has keys")
	}
}
