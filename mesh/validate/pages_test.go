package validate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
)

// Every document on the pages is one that a user can apply as it stands, and every routing and
// resilience policy has a page.
func TestPagesHoldValidDocuments(t *testing.T) {
	t.Parallel()

	pages, err := filepath.Glob("../../docs/policies/*.md")
	if err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, others...)
	seen := map[string]bool{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		kind := strings.TrimSuffix(filepath.Base(page), ".md")
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			body, _, _ := strings.Cut(block, "```")
			docs, err := codec.Decode([]byte(body))
			if err != nil {
				t.Errorf("%s: %v\n%s", page, err, body)
				continue
			}
			for _, d := range docs {
				if warnings, err := validate.Resource(d.Resource); err != nil {
					t.Errorf("%s: %v\n%s", page, err, body)
				} else if w := append(d.Warnings, warnings...); len(w) > 0 &&
					!strings.Contains(body, "from:") {
					t.Errorf("%s: %q\n%s", page, w, body)
				}
				if strings.EqualFold(string(d.Resource.Key.Kind), kind) {
					seen[kind] = true
				}
			}
		}
	}
	for _, info := range mesh.Kinds {
		if name := strings.ToLower(string(info.Kind)); info.Policy != nil && !seen[name] {
			t.Errorf("docs/policies/%s.md is missing, or has no example of %s", name, info.Kind)
		}
	}
}
