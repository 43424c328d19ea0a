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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/meridian-mesh/meridian"

// Sizes in lines: over soft is logged, over hard fails. A file that long holds two things.
const (
	softLines = 600
	hardLines = 700
)

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

// source parses every Go file of the repository.
func source(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" ||
				name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f := file{
			path: filepath.ToSlash(rel),
			text: string(data),
			fset: token.NewFileSet(),
			test: strings.HasSuffix(name, "_test.go"),
		}
		f.dir = path.Dir(f.path)
		f.ast, err = parser.ParseFile(f.fset, p, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		f.generated = ast.IsGenerated(f.ast)
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d Go files below %s: the walk is broken", len(files), root)
	}
	return files
}

func imports(f file) []string {
	var out []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
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

// directions says which of our own trees a tree may import besides itself and proto. The longest
// matching row counts. Arrows only point down (docs/architecture.md): a room that knows its users
// cannot be widened without them.
var directions = []struct {
	tree string
	may  []string
}{
	{"proto", nil},
	{"mesh", nil},
	{"policy", []string{"mesh"}},
	{"store", []string{"mesh"}},
	{"store/replica", []string{"mesh", "store!"}},
	{"store/storetest", []string{"mesh", "store!", "store/replica"}},
	{"store/txn", []string{"mesh", "store!"}},
	{"store/embedded", []string{"mesh", "store!", "store/txn"}},
	{"store/postgres", []string{"mesh", "store!", "store/txn"}},
	{"kds", []string{"mesh", "store"}},
	{"kds/kdsrpc", []string{"mesh", "store", "kds!"}},
	{"xds/graph", nil},
	{"xds/ir", []string{"mesh", "internal/intern"}},
	{"xds/compile", []string{"mesh", "policy", "xds/ir", "internal/intern"}},
	{"xds/translate", []string{"mesh", "xds/ir"}},
	{"xds/delta", []string{"mesh"}},
	{"xds/bootstrap", []string{"mesh"}},
	{"xds/xdstest", []string{"mesh"}},
	{"xds", []string{"mesh", "policy", "store!", "store/replica", "xds", "internal/intern"}},
	{"zone", []string{"mesh", "policy", "store", "kds", "xds", "internal"}},
	{"global", []string{"mesh", "policy", "store", "kds", "internal"}},
	{"internal", []string{"mesh", "policy", "store", "xds", "internal"}},
	{"internal/config", nil},
	{"internal/launcher", []string{"mesh", "internal/pki", "internal/config", "internal/obs",
		"internal/auth/token", "xds/bootstrap"}},
	{"cmd/meridian-dp", []string{"mesh", "internal", "xds/bootstrap"}},
	{"cmd", []string{"mesh", "policy", "store", "kds", "xds", "zone", "global", "internal"}},
	{"e2e", []string{"mesh", "policy", "store", "kds", "xds", "zone", "global", "internal", "cmd"}},
}

func TestImportDirections(t *testing.T) {
	for _, f := range source(t) {
		if f.test {
			continue // a test may use any fake
		}
		best := -1
		for i, d := range directions {
			if under(f.dir, d.tree) && (best < 0 || len(d.tree) > len(directions[best].tree)) {
				best = i
			}
		}
		if best < 0 {
			t.Errorf("%s: folder %s is in no row of directions; add it, saying what it may import", f.path,
				f.dir)
			continue
		}
		row := directions[best]
		for _, imp := range imports(f) {
			own, ok := strings.CutPrefix(imp, module+"/")
			if !ok || under(own, "proto") || under(own, row.tree) || under(own, row.may...) {
				continue
			}
			t.Errorf("%s imports %s; %s may import only itself, proto and %v", f.path, own, row.tree, row.may)
		}
	}
}

// TestForeignImports keeps the big dependencies in the rooms they belong to, so that a change of
// library is a change of one room, and so that pure rooms stay testable without a network.
func TestForeignImports(t *testing.T) {
	rules := []struct {
		prefix string
		only   []string
		why    string
	}{
		{"github.com/jackc/pgx", []string{"store/postgres", "internal/pgtest"},
			"SQL lives behind store.Store"},
		{"go.etcd.io/bbolt", []string{"store/embedded"}, "files live behind store.Store"},
		{"github.com/envoyproxy/go-control-plane",
			[]string{"xds", "internal/demo", "internal/bench", "e2e", "zone", "cmd"},
			"Envoy's types end at xds"},
		{"k8s.io", []string{"zone/kube"}, "Kubernetes lives in one room"},
		{"google.golang.org/grpc",
			[]string{"proto", "kds/kdsrpc", "xds", "zone", "global", "internal", "cmd", "e2e"},
			"the model, the policies, the stores and the kds core know no transport"},
		{"github.com/spf13/cobra", []string{"cmd", "internal/demo", "internal/bench"},
			"commands are the edge"},
		{"testing", []string{"store/storetest", "kds/kdstest", "xds/xdstest", "internal/pgtest",
			"internal/house", "internal/envoytest", "e2e"}, "programs do not carry test code"},
	}
	for _, f := range source(t) {
		if f.test {
			continue
		}
		for _, imp := range imports(f) {
			for _, r := range rules {
				if under(imp, r.prefix) && !under(f.dir, r.only...) {
					t.Errorf("%s imports %s, which only %v may: %s", f.path, imp, r.only, r.why)
				}
			}
		}
	}
}

// TestPureRooms: what takes no clock and does no I/O can be tested by tables and fuzzed.
func TestPureRooms(t *testing.T) {
	banned := []string{"net", "net/http", "os", "os/exec", "database/sql", "google.golang.org/grpc"}
	for _, f := range source(t) {
		if f.test || !under(f.dir, "mesh", "policy", "xds/ir", "xds/compile", "xds/translate", "kds!") {
			continue
		}
		for _, imp := range imports(f) {
			if slices.Contains(banned, imp) {
				t.Errorf("%s imports %s; this room does no I/O", f.path, imp)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if isCall(n, "time", "Now") {
				t.Errorf("%s: time.Now in a pure room; pass the time in", f.line(n.Pos()))
			}
			return true
		})
	}
}

// TestLauncherIsSmall: what runs beside every workload carries no store, no sync and no database
// driver. Follows our own packages transitively.
func TestLauncherIsSmall(t *testing.T) {
	byDir := map[string][]string{}
	for _, f := range source(t) {
		if !f.test {
			byDir[f.dir] = append(byDir[f.dir], imports(f)...)
		}
	}
	seen := map[string]string{}
	var walk func(dir, via string)
	walk = func(dir, via string) {
		if _, ok := seen[dir]; ok {
			return
		}
		seen[dir] = via
		for _, imp := range byDir[dir] {
			if strings.HasPrefix(imp, "github.com/jackc/pgx") || strings.HasPrefix(imp, "go.etcd.io/bbolt") ||
				strings.HasPrefix(imp, "k8s.io") {
				t.Errorf("meridian-dp reaches %s through %s", imp, via+" → "+dir)
			}
			if own, ok := strings.CutPrefix(imp, module+"/"); ok {
				if under(own, "store", "kds", "global", "zone") {
					t.Errorf("meridian-dp reaches %s through %s", own, via+" → "+dir)
				}
				walk(own, via+" → "+dir)
			}
		}
	}
	walk("cmd/meridian-dp", "")
}

// TestPackageComments: the package comment is the package's design document.
func TestPackageComments(t *testing.T) {
	has := map[string]bool{}
	for _, f := range source(t) {
		if f.test || f.generated {
			continue
		}
		has[f.dir] = has[f.dir] || (f.ast.Doc != nil && len(f.ast.Doc.Text()) > 60)
	}
	for dir, ok := range has {
		if !ok {
			t.Errorf("%s has no package comment that says what it is for, how it works and how it fails", dir)
		}
	}
}

func TestFileSizes(t *testing.T) {
	for _, f := range source(t) {
		if f.generated {
			continue
		}
		switch n := strings.Count(f.text, "\n"); {
		case n > hardLines:
			t.Errorf("%s has %d lines, the limit is %d: it holds two things", f.path, n, hardLines)
		case n > softLines:
			t.Logf("%s has %d lines; over %d it should be split soon", f.path, n, softLines)
		}
	}
}

// TestNoSleepsInTests: a test that sleeps is slow on a good day and wrong on a bad one. Wait for a
// channel, a revision, or use testing/synctest, whose clock is not the wall's.
func TestNoSleepsInTests(t *testing.T) {
	for _, f := range source(t) {
		if !f.test {
			continue
		}
		synctest := slices.Contains(imports(f), "testing/synctest")
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if isCall(n, "time", "Sleep") && !synctest {
				t.Errorf("%s: time.Sleep in a test", f.line(n.Pos()))
			}
			return true
		})
	}
}

// TestNoRegistration: what registers itself depends on who imported it. There is one literal table in mesh.
func TestNoRegistration(t *testing.T) {
	for _, f := range source(t) {
		if f.generated {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init; do it where it is needed, or in a table", f.line(fn.Pos()))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if !f.test && (isCall(n, "prometheus", "MustRegister") || isCall(n, "zap", "L") ||
				isCall(n, "zap", "S") || isCall(n, "zap", "ReplaceGlobals")) {
				t.Errorf("%s: a global registry or logger; both are fields of a Config", f.line(n.Pos()))
			}
			return true
		})
	}
}

// TestPackageNames: a name that says nothing collects everything.
func TestPackageNames(t *testing.T) {
	banned := []string{"util", "utils", "common", "core", "helpers", "misc", "shared", "base", "pkg", "types",
		"manager"}
	for _, f := range source(t) {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if slices.Contains(banned, name) || (strings.Contains(name, "_") && !f.generated) {
			t.Errorf("%s: package name %q says nothing of what is in it", f.path, name)
		}
	}
}

// machinePaths are paths that exist on one machine only.
var machinePaths = regexp.MustCompile(`(^|[^\w.$/-])/(work|root|home/\w+|Users/\w+)/\w`)

// TestNoMachinePaths: the repository must work wherever it is cloned.
func TestNoMachinePaths(t *testing.T) {
	root := "../.."
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if name == ".git" || name == ".tools" || name == "bin" || name == ".demo" ||
				name == "buf" && strings.HasSuffix(p, "proto/buf") {
				return filepath.SkipDir
			}
			return nil
		}
		text := slices.Contains([]string{"Makefile", "run"}, name)
		for _, ext := range []string{".go", ".md", ".sh", ".yaml", ".yml", ".json", ".txt", ".txtar", ".conf",
			".mod", ".proto", ".sql"} {
			text = text || strings.HasSuffix(name, ext)
		}
		if !text || strings.HasSuffix(p, "house_test.go") {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(data), "\n") {
			if machinePaths.MatchString(line) {
				t.Errorf("%s:%d names a path of one machine: %s", p, i+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
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
