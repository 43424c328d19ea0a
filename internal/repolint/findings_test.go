package repolint

import (
	"fmt"
	"testing"
)

// findings collects what breaks one rule, by package.
type findings map[string][]string

func (f findings) add(pkg, format string, args ...any) {
	f[pkg] = append(f[pkg], fmt.Sprintf(format, args...))
}

// report fails the test for each finding.
func report(t *testing.T, found findings) {
	t.Helper()

	for _, lines := range found {
		for _, line := range lines {
			t.Error(line)
		}
	}
}
