package repolint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/meridian-mesh/meridian"

// root is the repository's root: a test runs in the folder of its package.
const root = "../.."

// file is one Go file of the repository.
type file struct {
	path      string // from the repository's root, with slashes
	dir       string
	text      string
	ast       *ast.File
	fset      *token.FileSet
	generated bool
	test      bool
}

func (f file) line(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(pos).Line)
}

var parsed = sync.OnceValues(parse)

// source gives every Go file of the repository, parsed.
func source(t *testing.T) []file {
	t.Helper()

	files, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d Go files below %s: the walk is broken", len(files), root)
	}
	return files
}

func parse() ([]file, error) {
	var files []file
	err := walk(func(rel string, data []byte) error {
		if !strings.HasSuffix(rel, ".go") || under(rel, "tools") {
			return nil
		}

		f := file{
			path: rel,
			dir:  path.Dir(rel),
			text: string(data),
			fset: token.NewFileSet(),
			test: strings.HasSuffix(rel, "_test.go"),
		}

		var err error
		f.ast, err = parser.ParseFile(f.fset, rel, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		f.generated = ast.IsGenerated(f.ast)
		files = append(files, f)
		return nil
	})
	return files, err
}

// textFiles are the names of files that people write, apart from Go.
var textFiles = []string{".md", ".sh", ".yaml", ".yml", ".json", ".txt", ".txtar", ".conf", ".mod",
	".proto", ".sql", "Makefile", ".ci/run"}

// walk calls fn with every text file of the repository; rel is its path from the root, with slashes.
// What is built or fetched is left out.
func walk(fn func(rel string, data []byte) error) error {
	skip := []string{".git", ".tools", ".demo", "bin", "proto/buf"}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}

		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if slices.Contains(skip, rel) {
				return filepath.SkipDir
			}
			return nil
		}

		ends := func(suffix string) bool { return strings.HasSuffix(rel, suffix) }
		if !d.Type().IsRegular() || !ends(".go") && !slices.ContainsFunc(textFiles, ends) {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return fn(rel, data)
	})
}

// exists says whether the repository has a file or folder of this path, from its root.
func exists(rel string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(rel)))
	return err == nil
}

func imports(f file) []string {
	var out []string
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// under says whether p is one of the trees or below one. A tree that ends in "!" is that package alone.
func under(p string, trees ...string) bool {
	for _, tree := range trees {
		if exact, ok := strings.CutSuffix(tree, "!"); ok {
			if p == exact {
				return true
			}
			continue
		}
		if p == tree || strings.HasPrefix(p, tree+"/") {
			return true
		}
	}
	return false
}

// packages gives the folders that have Go files outside of tests, sorted, without generated code.
func packages(t *testing.T) []string {
	t.Helper()

	var out []string
	for _, f := range source(t) {
		if !f.test && !f.generated && !slices.Contains(out, f.dir) {
			out = append(out, f.dir)
		}
	}
	slices.Sort(out)
	return out
}

func isCall(n ast.Node, pkg, name string) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg
}
