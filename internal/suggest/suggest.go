// Package suggest finds the known name that a misspelt one most likely means, for the "did you mean"
// of error messages. It imports nothing of this module.
package suggest

import "strings"

// Nearest is the known name that a misspelt one most likely means, or empty if none is near enough:
// up to three edits, and at most every third character. Case, "-" and "_" do not count.
func Nearest(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	flat := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	}
	best, bestDistance := "", 1+min(3, (len(name)+1)/3)
	for _, k := range known {
		if d := Distance(flat(name), flat(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// Distance counts the insertions, removals, replacements and swaps of neighbours that turn a into b.
func Distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := [3][]int{make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(x); i++ {
		before, last, row := rows[(i+2)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(x)+1)%3][len(y)]
}
