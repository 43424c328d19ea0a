package policy

import (
	"fmt"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func BenchmarkForDestination(b *testing.B) {
	text := defaults + timeout("a", "{kind: Mesh}", "", "1s")
	for i := range 20 {
		text += timeout(fmt.Sprintf("s%d", i), "{kind: Mesh}", fmt.Sprintf("other%d", i), "1s")
	}
	policies := sorted(read(b, text+timeout("b", "{kind: Mesh}", "backend", "1s")))
	b.ReportAllocs()
	for b.Loop() {
		ForDestination(policies, backend)
	}
}

func BenchmarkSelect(b *testing.B) {
	h := HeadOf(read(b, timeout("a", "{kind: MeshSubset, tags: {version: '1'}}", "", "1s"))[0])
	s := web()
	b.ReportAllocs()
	for b.Loop() {
		h.Select(s)
	}
}

func BenchmarkBuckets(b *testing.B) {
	s := web()
	b.ReportAllocs()
	for b.Loop() {
		Buckets(s)
	}
}

func BenchmarkHeadOf(b *testing.B) {
	p := read(b, timeout("a", "{kind: Mesh}", "", "1s"))[0]
	b.ReportAllocs()
	var h Head
	for b.Loop() {
		h = HeadOf(p)
	}
	if h.Key.Kind != mesh.KindMeshTimeout {
		b.Fatal(h)
	}
}

// BenchmarkManyRules is what 2,000 rules of a MeshHTTPRoute cost from policy to sorted routes.
func BenchmarkManyRules(b *testing.B) {
	text := "type: MeshHTTPRoute\nmesh: default\nname: big\nspec:\n  to:\n" +
		"  - targetRef: {kind: MeshService, name: backend}\n    rules:\n"
	for i := range 2000 {
		text += fmt.Sprintf(
			"    - matches: [{path: {type: PathPrefix, value: /p%d}}]\n      default: {}\n",
			i,
		)
	}
	policies := sorted(read(b, text))
	b.ReportAllocs()
	for b.Loop() {
		if n := len(SortRoutes(HTTPRoutes(policies, backend))); n != 2000 {
			b.Fatal(n)
		}
	}
}
