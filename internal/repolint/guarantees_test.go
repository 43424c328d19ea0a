package repolint

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proof is a command of docs/guarantees.md: folders, then what -run selects, where it selects.
var proof = regexp.MustCompile("`go test ((?:\\./[\\w/]+ ?)+)(?:-run '?([^`']+)'?)?`")

// TestGuaranteesNameTests: each row of docs/guarantees.md names tests that exist. A test that is renamed
// would leave a promise which `go test` says is kept, since it runs nothing.
func TestGuaranteesNameTests(t *testing.T) {
	t.Parallel()

	tests := map[string][]string{}
	for _, f := range source(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				tests[f.dir] = append(tests[f.dir], fn.Name.Name)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(page), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| promise") ||
			strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		proofs := proof.FindAllStringSubmatch(line, -1)
		if len(proofs) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range proofs {
			checkProof(t, tests, strings.Fields(m[1]), strings.ReplaceAll(m[2], `\|`, "|"))
		}
	}
	if rows == 0 {
		t.Error("docs/guarantees.md has no row")
	}
}

// checkProof fails if one of the folders has no test, or one of the alternatives selects none.
func checkProof(t *testing.T, tests map[string][]string, dirs []string, run string) {
	t.Helper()

	for _, dir := range dirs {
		dir = strings.TrimPrefix(dir, "./")
		if len(tests[dir]) == 0 {
			t.Errorf("docs/guarantees.md: %s has no tests", dir)
			continue
		}
		top, _, _ := strings.Cut(run, "/") // subtests are not known here
		for _, part := range strings.Split(top, "|") {
			re, err := regexp.Compile(part)
			if err != nil {
				t.Errorf("docs/guarantees.md: %s: %v", run, err)
				continue
			}
			found := false
			for _, name := range tests[dir] {
				found = found || strings.HasPrefix(name, "Test") && re.MatchString(name)
			}
			if !found {
				t.Errorf("docs/guarantees.md: %s has no test %s", dir, part)
			}
		}
	}
}
