package repolint

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	// outside names documents that a clone does not have, with a section.
	outside = regexp.MustCompile(`(?i)\b(core-resources|traffic-policies|data-plane|rest-api|` +
		`security-observability[a-z-]*|kuma-3|enterprise|style-examples|design|structure|guides)` +
		`(\.md)?,? (section )?[0-9]`)

	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	document = regexp.MustCompile(`[\w./-]*\w\.md\b`)

	// place finds paths of this repository in prose: after a space, a bracket or a quote.
	place = regexp.MustCompile(
		"(?:^|[\\s(\"`])((?:internal|cmd|scripts|docs|e2e|test|proto|tools)(?:/[\\w.-]*\\w)+)")
)

// TestCitations: what a comment or a document refers to is in the clone, or is a public
// specification that is named in full.
func TestCitations(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if f.generated || f.path == "internal/repolint/citations_test.go" {
			continue
		}
		for _, c := range f.ast.Comments {
			text := strings.Join(strings.Fields(commentText(c)), " ")
			if m := outside.FindString(text); m != "" {
				found.add(f.dir, "%s cites %q, which a clone does not have", f.line(c.Pos()), m)
			}
			for _, name := range document.FindAllString(text, -1) {
				if !resolves(f.dir, name) {
					found.add(f.dir, "%s names %s, which does not exist", f.line(c.Pos()), name)
				}
			}
			for _, m := range place.FindAllStringSubmatch(text, -1) {
				if !resolves(f.dir, m[1]) {
					found.add(f.dir, "%s names %s, which does not exist", f.line(c.Pos()), m[1])
				}
			}
		}
	}

	err := walk(func(rel string, data []byte) error {
		dir := path.Dir(rel)
		markdown := strings.HasSuffix(rel, ".md")
		if !markdown && !strings.HasSuffix(rel, ".proto") {
			return nil
		}

		for _, p := range paragraphs(string(data)) {
			if m := outside.FindString(p.text); m != "" {
				found.add(dirOf(rel), "%s:%d cites %q, which a clone does not have", rel, p.line, m)
			}
			for _, m := range link.FindAllStringSubmatch(p.text, -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if !markdown || target == "" || strings.Contains(target, ":") {
					continue // an anchor in the same page, or an address
				}
				if !exists(path.Join(dir, target)) {
					found.add(dirOf(rel), "%s:%d links to %s, which does not exist", rel, p.line, target)
				}
			}
			for _, m := range place.FindAllStringSubmatch(p.text, -1) {
				if !resolves(dir, m[1]) {
					found.add(dirOf(rel), "%s:%d names %s, which does not exist", rel, p.line, m[1])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	report(t, found)
}

// resolves says whether a name is a file or folder from the root, from the folder that names it, or
// from docs. A name below a folder that no clone has, such as bin, is not for this test.
func resolves(dir, name string) bool {
	for _, base := range []string{".", dir, "docs", "proto"} {
		if exists(path.Join(base, name)) {
			return true
		}
	}

	// "mesh.Key" beside a folder: internal/obs.Register names the package internal/obs.
	pkg, _, ok := strings.Cut(path.Base(name), ".")
	return ok && !strings.HasSuffix(name, ".md") && exists(path.Join(path.Dir(name), pkg))
}

// dirOf is path.Dir with the repository's own files under their name.
func dirOf(rel string) string {
	if dir := path.Dir(rel); dir != "." {
		return dir
	}
	return rel
}
