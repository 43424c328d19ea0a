package repolint

import (
	"go/ast"
	"slices"
	"testing"
)

// TestPure: what takes no clock and does no I/O can be tested by tables and fuzzed.
func TestPure(t *testing.T) {
	t.Parallel()

	pure := []string{"mesh", "policy", "xds/graph", "xds/ir", "xds/compile", "xds/translate", "kds!"}
	banned := []string{"net", "net/http", "os", "os/exec", "database/sql", "google.golang.org/grpc"}
	found := findings{}
	for _, f := range source(t) {
		if f.test || !under(f.dir, pure...) {
			continue
		}

		for _, imp := range imports(f) {
			if slices.Contains(banned, imp) {
				found.add(f.dir, "%s imports %s; this package does no I/O", f.path, imp)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if isCall(n, "time", "Now") {
				found.add(f.dir, "%s: time.Now in a pure package; pass the time in", f.line(n.Pos()))
			}
			return true
		})
	}
	report(t, found)
}

// TestNoRegistration: what registers itself depends on which program imports it. There is one table of
// kinds in mesh; registries and loggers are fields of a Config.
func TestNoRegistration(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if f.generated {
			continue
		}

		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found.add(f.dir, "%s: func init; do it where it is needed, or in a table", f.line(fn.Pos()))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if !f.test && (isCall(n, "prometheus", "MustRegister") || isCall(n, "zap", "L") ||
				isCall(n, "zap", "S") || isCall(n, "zap", "ReplaceGlobals")) {
				found.add(f.dir, "%s: a global registry or logger; both are fields of a Config",
					f.line(n.Pos()))
			}
			return true
		})
	}
	report(t, found)
}
