package repolint

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPackageComments: the package comment is the package's design document.
func TestPackageComments(t *testing.T) {
	t.Parallel()

	documented := map[string]bool{}
	for _, f := range source(t) {
		if !f.test && !f.generated && f.ast.Doc != nil && len(f.ast.Doc.Text()) > 60 {
			documented[f.dir] = true
		}
	}

	found := findings{}
	for _, dir := range packages(t) {
		if !documented[dir] {
			found.add(dir, "%s has no package comment: what it is for, how it works, how it fails", dir)
		}
	}
	report(t, found)
}

// TestPackageNames: a name that says nothing collects everything.
func TestPackageNames(t *testing.T) {
	t.Parallel()

	banned := []string{"util", "utils", "common", "core", "helpers", "misc", "shared", "base", "pkg", "types",
		"manager"}
	found := findings{}
	for _, f := range source(t) {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if slices.Contains(banned, name) || (strings.Contains(name, "_") && !f.generated) {
			found.add(f.dir, "%s: package name %q says nothing of what is in it", f.path, name)
		}
	}
	report(t, found)
}

// machinePaths are paths that exist on one machine only.
var machinePaths = regexp.MustCompile(`(^|[^\w.$/-])/(work|root|home/\w+|Users/\w+)/\w`)

// TestNoMachinePaths: the repository must work wherever it is cloned.
func TestNoMachinePaths(t *testing.T) {
	t.Parallel()

	err := walk(func(rel string, data []byte) error {
		if rel == "internal/repolint/names_test.go" {
			return nil
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			if machinePaths.MatchString(line) {
				t.Errorf("%s:%d names a path of one machine: %s", rel, n, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
