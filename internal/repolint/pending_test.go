package repolint

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// findings collects what breaks one rule, by package.
type findings map[string][]string

func (f findings) add(pkg, format string, args ...any) {
	f[pkg] = append(f[pkg], fmt.Sprintf(format, args...))
}

// report fails the test for each finding, except those in pending.txt, a list that only shrinks: an
// entry without a finding fails too. The file goes when it is empty.
func report(t *testing.T, rule string, found findings) {
	t.Helper()

	pending := pendingOf(t, rule)
	for pkg, lines := range found {
		for _, line := range lines {
			if slices.Contains(pending, pkg) {
				t.Logf("pending: %s", line)
				continue
			}
			t.Error(line)
		}
	}

	for _, pkg := range pending {
		if len(found[pkg]) == 0 {
			t.Errorf("rule %q holds for %s now: remove the line %q from internal/repolint/pending.txt",
				rule, pkg, pkg+" "+rule)
		}
	}
}

// pendingOf reads the packages for which a rule does not hold yet, from lines of a package and a rule.
func pendingOf(t *testing.T, rule string) []string {
	t.Helper()

	data, err := os.ReadFile("pending.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if pkg, r, ok := strings.Cut(strings.TrimSpace(line), " "); ok && r == rule {
			out = append(out, pkg)
		}
	}
	return out
}
