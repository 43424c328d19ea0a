package repolint

import (
	"go/ast"
	"slices"
	"testing"
)

// TestNoSleepsInTests: a test that sleeps is slow on a good day and wrong on a bad one. Wait for a
// channel or a revision, or use testing/synctest, whose clock is not the wall's.
func TestNoSleepsInTests(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if !f.test && !under(f.dir, "test", "e2e") || slices.Contains(imports(f), "testing/synctest") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if isCall(n, "time", "Sleep") {
				found.add(f.dir, "%s: time.Sleep in a test", f.line(n.Pos()))
			}
			return true
		})
	}
	report(t, found)
}
