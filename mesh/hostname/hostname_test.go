package hostname

import (
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	t.Parallel()
	in := Input{Name: "a", DisplayName: "b", Zone: "east"}
	labels := map[string]string{"app": "web"}
	render := func(text string) (string, error) {
		p, err := Parse(text)
		if err != nil {
			return "", err
		}
		return p.Render(in, labels)
	}
	got, err := render(`{{ if eq .Zone "west" }}w{{ else }}{{ $.DisplayName }}{{ end }}`)
	if err != nil || got != "b" {
		t.Errorf("%q %v", got, err)
	}
	got, err = render(`{{ label "app" }}.{{ .DisplayName }}.{{ .Zone }}.mesh`)
	if err != nil || got != "web.b.east.mesh" {
		t.Errorf("%q %v", got, err)
	}
	for text, want := range map[string]string{
		`{{ label "team" }}`:          "label team is missing",
		`{{ .Namespace }}.a`:          "not a DNS name",
		`{{ printf "%99999999d" 1 }}`: "must not call printf",
		`{{ .Name | print | len }}`:   "must not call print",
		// Text of 2^28 bytes from 70.
		`{{$x := "a"}}{{range 28}}{{$x = print $x $x}}{{end}}`:  "must not have variables",
		`{{range 1000000000}}{{end}}`:                           "must have only fields, labels",
		`{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`: "must not define templates",
		`{{with .Name}}{{.}}{{end}}`:                            "must have only fields",
		`{{ .Name`:                                              "not a template",
		strings.Repeat("{{ .Name }}", 2000):                     "gives too much text",
	} {
		if _, err := render(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}
