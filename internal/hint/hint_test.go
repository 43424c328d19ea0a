package hint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/internal/hint"
)

func TestValuesOfTokensAreLeftOutUnlessPlain(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"east": "issue a new one at global with 'meridian token zone --zone east " +
			"--scope cp'",
		"":                       "issue a new one at global with 'meridian token zone --scope cp'",
		"a'; rm -r b":            "issue a new one at global with 'meridian token zone --scope cp'",
		strings.Repeat("x", 254): "issue a new one at global with 'meridian token zone --scope cp'",
	} {
		if got := hint.ZoneToken(value, "cp"); got != want {
			t.Errorf("ZoneToken(%q) = %q, want %q", value, got, want)
		}
	}
}

// TestOnlyOwnersNameFlags: texts that name a flag or a verb are in the packages that declare it, and here.
func TestOnlyOwnersNameFlags(t *testing.T) {
	t.Parallel()
	domain := []string{"api", "controller", "identity", "kds", "mesh", "policy", "store", "xds",
		"zone/universal"}
	names := regexp.MustCompile(`(^|[ (])--[a-z]{2}|meridian (apply|config|debug|delete|describe|diff|` +
		`explain|get|global|status|token|zone)\b`)
	for _, dir := range domain {
		err := filepath.WalkDir(filepath.Join("../..", dir),
			func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") ||
					strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
					return err
				}
				fset := token.NewFileSet()
				file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
				if err != nil {
					return err
				}
				ast.Inspect(file, func(n ast.Node) bool {
					lit, ok := n.(*ast.BasicLit)
					if ok && lit.Kind == token.STRING && names.MatchString(lit.Value) {
						t.Errorf("%s names a flag or a verb: %s", fset.Position(lit.Pos()), lit.Value)
					}
					return true
				})
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
	}
}
