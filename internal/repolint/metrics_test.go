package repolint

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var metric = regexp.MustCompile(`\bmeridian_[a-z0-9_]*[a-z0-9]\b`)

// TestMetricsOfDocs: a metric that a page of docs names exists. An alert on one that does not exist
// never fires.
func TestMetricsOfDocs(t *testing.T) {
	t.Parallel()

	known := map[string]bool{}
	for _, f := range source(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		var literals []string
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					literals = append(literals, s)
					known[s] = true
				}
			}
			return true
		})
		// A file with the namespace and a subsystem names the rest alone.
		if !strings.HasSuffix(f.path, "metrics.go") {
			continue
		}
		for _, sub := range literals {
			for _, rest := range literals {
				known["meridian_"+sub+"_"+rest] = true
			}
		}
	}

	found := findings{}
	err := walk(func(rel string, data []byte) error {
		if !strings.HasPrefix(rel, "docs/") || !strings.HasSuffix(rel, ".md") {
			return nil
		}
		for _, name := range metric.FindAllString(string(data), -1) {
			if !known[name] {
				found.add("docs", "%s names the metric %s, which does not exist", rel, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	report(t, found)
}
