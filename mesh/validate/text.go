package validate

import (
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// What goes into Envoy's messages as text has bounds there, or acts on each request: longer ones are
// refused by the proxy, or cost every request of it.
const (
	// maxHeaderValue bounds the value of a header in bytes, escaped as Envoy wants it. Envoy takes
	// twice that.
	maxHeaderValue = 8 << 10
	// maxExpression bounds a regular expression in bytes.
	maxExpression = 1 << 10
	// maxProgram bounds the steps of a compiled expression. RE2 gives up at about 87,000 of its own, of
	// which it needs up to twelve where Go needs one.
	maxProgram = 5_000
)

// printable is text that goes into a header: proxies refuse line ends and zero bytes there.
func (c *check) printable(path, s string) {
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return isControl(r) && r != '\t' }):
		c.add(path, "must not contain line ends or other control characters")
	case len(s)+strings.Count(s, "%") > maxHeaderValue:
		c.add(path, "must have at most %d bytes, where %% counts twice", maxHeaderValue)
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// expression must be one that Envoy's engine, RE2, takes: Go's takes a little more.
func (c *check) expression(path, expr string) {
	if len(expr) > maxExpression {
		c.add(path, "must have at most %d bytes", maxExpression)
		return
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		c.add(path, "is not a regular expression in RE2 syntax: %s",
			strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	for _, m := range unicodeClass.FindAllStringSubmatch(quoted.ReplaceAllString(expr, ""), -1) {
		if name := m[1] + m[2]; !re2Class(name) {
			c.add(
				path,
				`is not a regular expression in RE2 syntax: \p{%s}: use a general category of one or two `+
					"letters, such as L or Lu, or a script",
				name,
			)
			return
		}
	}
	if prog, err := syntax.Compile(re.Simplify()); err != nil || len(prog.Inst) > maxProgram {
		c.add(path, "is too large for a proxy: repeat less")
	}
}

var (
	// quoted are the escapes in which a \p does not begin a class: \\ and \Q...\E.
	quoted       = regexp.MustCompile(`\\Q(?s:.)*?(?:\\E|\z)|\\\\`)
	unicodeClass = regexp.MustCompile(`\\[pP](?:\{\^?([^}]*)\}|(.))`)
)

// newScripts are those that Go knows and that the RE2 of older Envoys does not (Unicode 15 and later).
var newScripts = []string{"Kawi", "Nag_Mundari", "Garay", "Gurung_Khema", "Kirat_Rai", "Ol_Onal", "Sunuwar",
	"Todhri", "Tulu_Tigalari", "Beria_Erfe", "Sidetic", "Tai_Yo", "Tolong_Siki"}

// re2Class says that RE2 knows the name of a class of Unicode.
func re2Class(name string) bool {
	if name == "Any" {
		return true
	}
	if _, script := unicode.Scripts[name]; script {
		return !slices.Contains(newScripts, name)
	}
	_, category := unicode.Categories[name]
	return category && len(name) <= 2 && name != "Cn" && name != "LC"
}

// encodedPath must be a path as it stands on a request line: Envoy compares and replaces bytes. what is
// said of it, "path" if it is compared.
func (c *check) encodedPath(path, value string) {
	switch {
	case strings.ContainsFunc(value, isControl):
		c.add(path, "must not contain control characters")
	case strings.ContainsAny(value, "?#"):
		c.add(
			path,
			"must be a path alone, without ? and #: %s never holds one",
			path[strings.LastIndexByte(path, '.')+1:],
		)
	case strings.ContainsFunc(value, func(r rune) bool { return r == ' ' || r > unicode.MaxASCII }):
		c.add(
			path,
			"must be percent-encoded, as it is on the wire: %s",
			(&url.URL{Path: value}).EscapedPath(),
		)
	case badEscape.MatchString(value):
		c.add(path, "has a %% that two hexadecimal digits must follow; a percent sign itself is %%25")
	}
}

var badEscape = regexp.MustCompile(`%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?\z)`)

// encodedQuery must be a part of a query as it stands on a request line, the name or the value of a
// parameter: Envoy compares bytes.
func (c *check) encodedQuery(path, value string) {
	outside := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("&#", r) }
	if strings.ContainsFunc(value, outside) {
		c.add(path, "must be percent-encoded, as it is on the wire: %s", url.QueryEscape(value))
	}
}
