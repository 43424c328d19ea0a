package repolint

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// words are expressions that readers of this code stumble over, each with what to write instead.
// They match whole words in any case.
var words = []struct {
	expr    string
	instead string
}{
	{`anew`, "again"},
	{`whoever`, "the caller, a client"},
	{`somebody|anybody|nobody`, "a user, a client, no client"},
	{`for ever`, "forever, without limit"},
	{`(is|are) told`, "is notified, receives"},
	{`speaks of`, "names, refers to"},
	{`ha(s|ve) (a|the) say`, "applies, decides"},
	{`house|rooms`, "repository, package"},
	{`story`, "demo, scenario"},
	{`at the begin`, "at the start"},
	{`the peer`, "Kuma, or: the remote side, the other side, zone, global"},
	{`(is|are|was|were|be|been|being|stay|stays|goes|went|store|database|global|zone|zones|cp) away`,
		"unavailable, unreachable"},
}

var banned = compileWords()

func compileWords() []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, w := range words {
		out = append(out, regexp.MustCompile(`(?i)\b(`+w.expr+`)\b`))
	}
	return out
}

var (
	// isNo finds "a label is no tag". "There is no tag" and "it is no longer a tag" are plain English.
	isNo      = regexp.MustCompile(`(?i)\b(\w+) is no (\w+)`)
	isNoPlain = regexp.MustCompile(`(?i)^(there is no \w+|\w+ is no (longer|more|less|other))$`)

	// wants finds "want a number": an error says what must be. A test says what it got and what it wants.
	wants = regexp.MustCompile(`(?i)\bwant\b`)

	// fixedWords are flags and make variables of that name.
	fixedWords = regexp.MustCompile(`--story\b|\bSTORY=`)
)

// mannered gives what is wrong with a text, as sentences.
func mannered(text string) []string {
	text = fixedWords.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")

	var out []string
	for i, re := range banned {
		if m := re.FindString(text); m != "" {
			out = append(out, strconv.Quote(m)+": write "+words[i].instead)
		}
	}
	for _, m := range isNo.FindAllString(text, -1) {
		if !isNoPlain.MatchString(m) {
			out = append(out, strconv.Quote(m)+": write is not a")
		}
	}
	return out
}

// TestWords reads the comments and the string literals of Go files, protos and docs.
func TestWords(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if f.generated || f.path == "internal/repolint/words_test.go" {
			continue
		}

		check := func(pos token.Pos, text string) {
			for _, m := range mannered(text) {
				found.add(f.dir, "%s: %s", f.line(pos), m)
			}
		}
		for _, c := range f.ast.Comments {
			check(c.Pos(), commentText(c))
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil || under(f.dir, "demo", "cmd/meridian") && text == "story" {
				return true // the name of demo's flag
			}
			check(lit.Pos(), text)
			if !f.test && !under(f.dir, testPackages...) && wants.MatchString(text) {
				found.add(f.dir, "%s: %q: write must be, expected", f.line(lit.Pos()), text)
			}
			return true
		})
	}

	err := walk(func(rel string, data []byte) error {
		if !strings.HasSuffix(rel, ".proto") && !strings.HasSuffix(rel, ".md") {
			return nil
		}
		for _, p := range paragraphs(string(data)) {
			for _, m := range mannered(p.text) {
				found.add(dirOf(rel), "%s:%d: %s", rel, p.line, m)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	report(t, found)
}

// commentText gives a comment's text without its markers, directives included.
func commentText(c *ast.CommentGroup) string {
	var b strings.Builder
	for _, line := range c.List {
		b.WriteString(strings.TrimPrefix(strings.TrimPrefix(line.Text, "//"), "/*"))
		b.WriteByte('\n')
	}
	return b.String()
}

type paragraph struct {
	line int
	text string
}

// paragraphs splits a text at empty lines, and drops the comment markers at the start of lines, so
// that an expression is found across a line break.
func paragraphs(text string) []paragraph {
	var out []paragraph
	var cur paragraph
	n := 0
	for line := range strings.Lines(text + "\n\n") {
		n++
		line = strings.TrimSpace(line)
		line = strings.TrimSpace(strings.TrimPrefix(line, "//"))
		if line == "" {
			if cur.text != "" {
				out = append(out, cur)
			}
			cur = paragraph{}
			continue
		}
		if cur.text == "" {
			cur.line = n
		}
		cur.text += " " + line
	}
	return out
}

func TestMannered(t *testing.T) {
	t.Parallel()

	for _, tt := range []struct {
		text string
		bad  bool
	}{
		{"the zone is written anew", true},
		{"renewed", false},
		{"a warehouse", false},
		{"the file lies in the House", true},
		{"wait for\n\tever", true},
		{"a label is no tag", true},
		{"there is no tag", false},
		{"it is no longer a tag", false},
		{"make demo STORY=resilience", false},
		{"the store is away", true},
		{"right away", false},
	} {
		if got := len(mannered(tt.text)) > 0; got != tt.bad {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.bad)
		}
	}
}
