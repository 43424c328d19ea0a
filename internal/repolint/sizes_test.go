package repolint

import (
	"regexp"
	"strings"
	"testing"
)

// A file above its limit holds two things; a package above its limit is two packages; a line above
// its limit does not fit beside another in a review.
const (
	maxPackageLines = 4000 // of Go that is neither generated nor a test
	maxFileLines    = 600
	maxColumns      = 110
	tabColumns      = 4
)

func TestPackageSizes(t *testing.T) {
	t.Parallel()

	lines := map[string]int{}
	for _, f := range source(t) {
		if !f.generated && !f.test {
			lines[f.dir] += strings.Count(f.text, "\n")
		}
	}

	found := findings{}
	for dir, n := range lines {
		if n > maxPackageLines {
			found.add(dir, "%s has %d lines, the limit is %d", dir, n, maxPackageLines)
		}
	}
	report(t, found)
}

func TestFileSizes(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if n := strings.Count(f.text, "\n"); !f.generated && n > maxFileLines {
			found.add(f.dir, "%s has %d lines, the limit is %d", f.path, n, maxFileLines)
		}
	}
	report(t, found)
}

func TestLineLengths(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if f.generated {
			continue
		}
		n := 0
		for line := range strings.Lines(f.text) {
			n++
			line = strings.TrimRight(line, "\n")
			if c := columns(line); c > maxColumns && !indivisible(line) {
				found.add(f.dir, "%s:%d has %d columns, the limit is %d", f.path, n, c, maxColumns)
			}
		}
	}
	report(t, found)
}

func columns(line string) int {
	tabs := strings.Count(line, "\t")
	return len([]rune(line)) + tabs*(tabColumns-1)
}

// whole finds a line of one string without a space, such as a URL or an import, with what follows it.
var whole = regexp.MustCompile("^\\s*(\\w+ )?(\"[^\" ]+\"|`[^` ]+`|[^\"`( ]+)[,+) ]*$")

// indivisible says whether a line cannot be broken.
func indivisible(line string) bool { return whole.MatchString(line) }
