package repolint

import (
	"go/ast"
	"go/doc"
	"strings"
	"testing"
)

// TestExamples: a package that others may import shows how it is used, by an Example that go test runs
// (one with an "Output:" comment), or says in its package comment, in a line that begins "No example:",
// why it cannot. Below e2e there are only tests.
func TestExamples(t *testing.T) {
	t.Parallel()

	shown := map[string]bool{}
	main := map[string]bool{}
	for _, f := range source(t) {
		main[f.dir] = main[f.dir] || f.ast.Name.Name == "main"
		switch {
		case f.test:
			for _, e := range doc.Examples(f.ast) {
				shown[f.dir] = shown[f.dir] || e.Output != "" || e.EmptyOutput
			}
		case f.ast.Doc != nil:
			shown[f.dir] = shown[f.dir] || excused(f.ast.Doc)
		}
	}

	found := findings{}
	for _, dir := range packages(t) {
		if !main[dir] && !under(dir, "internal", "e2e") && !shown[dir] {
			found.add(dir, `%s has no runnable Example and no line "No example:" in its package comment`, dir)
		}
	}
	report(t, found)
}

func excused(comment *ast.CommentGroup) bool {
	for line := range strings.Lines(comment.Text()) {
		if strings.HasPrefix(line, "No example:") {
			return true
		}
	}
	return false
}
