package repolint

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// kindFiles are existing kinds and how many files each may touch: what one more kind of the sort costs.
var kindFiles = []struct {
	kind  mesh.Kind
	limit int
	// parts are the names in package xds/ir of what the kind says.
	parts []string
	// doc lists the files.
	doc string
}{
	{mesh.KindMeshRetry, 6, []string{"Retry", "ConnectAttempts"}, "docs/adding-a-policy.md"},
	{mesh.KindMeshHealthCheck, 6, []string{"HealthCheck", "FailOnPanic"}, ""},
	{mesh.KindMeshMultiZoneService, 8, nil, "docs/development.md"},
}

// kindExceptions name kinds for a reason that one more kind does not have.
var kindExceptions = map[string]string{
	"policy/defaults/defaults.go": "a policy that a new Mesh gets, which is data like a user's document",
	"mesh/codec/legacy.go":        "translates kinds of Kuma's older model, of which there will be no more",
	"mesh/foreign.go":             "names what Kuma has, for messages about documents of other kinds",
}

// TestKindFiles counts the files that a person writes for one kind, so that kinds stay cheap to add: the
// files of the product, in Go and proto, that have the kind's name in an identifier or a string, in any
// spelling, or the name of what it says to proxies. Comments do not count.
func TestKindFiles(t *testing.T) {
	t.Parallel()

	for _, row := range kindFiles {
		files := touched(t, row.kind, row.parts)
		list := strings.Join(files, "\n\t")
		if len(files) > row.limit {
			t.Errorf("%s is in %d files, the limit is %d:\n\t%s", row.kind, len(files), row.limit, list)
		} else {
			t.Logf("%s is in %d files:\n\t%s", row.kind, len(files), list)
		}
		if row.doc == "" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, row.doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.Contains(string(text), "`"+f+"`") {
				t.Errorf("%s does not list %s, which has %s in it", row.doc, f, row.kind)
			}
		}
	}
	for path := range kindExceptions {
		if !exists(path) {
			t.Errorf("kindExceptions names %s, which does not exist", path)
		}
	}
}

// notProduct are trees in which every kind may be named: they show, measure and test the product.
var notProduct = []string{"demo", "bench", "test", "e2e", "tools", "kds/kdstest", "store/storetest",
	"xds/xdstest"}

var protoComment = regexp.MustCompile(`(?s)//[^\n]*|/\*.*?\*/`)

// touched gives the files of a kind, sorted.
func touched(t *testing.T, kind mesh.Kind, parts []string) []string {
	t.Helper()

	info, ok := mesh.Lookup(kind)
	if !ok {
		t.Fatalf("there is no kind %s", kind)
	}
	names := func(text string) bool {
		plain := strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(text))
		return strings.Contains(plain, strings.ToLower(string(kind))) || strings.Contains(plain, info.Plural)
	}
	counts := func(path string) bool {
		_, excepted := kindExceptions[path]
		return !excepted && !under(path, notProduct...) && !under(path, testPackages...) &&
			!strings.HasSuffix(path, "_test.go")
	}

	var out []string
	for _, f := range source(t) {
		if f.generated || !counts(f.path) {
			continue
		}
		speaksIR := f.dir == "xds/ir" || slices.Contains(imports(f), module+"/xds/ir")
		found := false
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				found = found || names(n.Name) || speaksIR && slices.Contains(parts, n.Name)
			case *ast.BasicLit:
				found = found || n.Kind == token.STRING && names(n.Value)
			}
			return !found
		})
		if found {
			out = append(out, f.path)
		}
	}
	err := walk(func(rel string, data []byte) error {
		if !strings.HasSuffix(rel, ".proto") || !counts(rel) {
			return nil
		}
		if names(protoComment.ReplaceAllString(string(data), "")) {
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}
