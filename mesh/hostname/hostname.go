// Package hostname renders the templates of HostnameGenerators. Validation, the controller that
// gives services their hostnames and whatever shows them use this one renderer, so that a template
// that was accepted renders.
package hostname

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/meridian-mesh/meridian/mesh"
)

// Input is what a template sees of a destination.
type Input struct {
	Name, DisplayName, Namespace, Mesh, Zone string
}

// Template is a parsed template. It is safe for concurrent use.
type Template struct{ parsed *template.Template }

// Parse reads a template. The error says what is wrong with it.
func Parse(text string) (*Template, error) {
	t, err := template.New("hostname").
		Option("missingkey=error").
		Funcs(functions(func(string) (string, error) { return "", nil })).
		Parse(text)
	if err != nil {
		return nil, fmt.Errorf("not a template: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("must not define templates")
	}
	if err := plain(t.Root); err != nil {
		return nil, err
	}
	return &Template{parsed: t}, nil
}

// plain says what of a template is more than fields, labels and conditions. Loops, variables and functions
// that make text can grow without limit in a template of a few bytes.
func plain(n parse.Node) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, c := range n.Nodes {
			if err := plain(c); err != nil {
				return err
			}
		}
		return nil
	case *parse.ActionNode:
		return plain(n.Pipe)
	case *parse.IfNode:
		return errors.Join(plain(n.Pipe), plain(n.List), plain(n.ElseList))
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			return fmt.Errorf("%s: must not have variables", n)
		}
		for _, c := range n.Cmds {
			for _, arg := range c.Args {
				if err := plain(arg); err != nil {
					return err
				}
			}
		}
		return nil
	case *parse.IdentifierNode:
		if slices.Contains(allowed, n.Ident) {
			return nil
		}
		return fmt.Errorf("must not call %s, only %s", n.Ident, strings.Join(allowed, ", "))
	case *parse.TextNode, *parse.FieldNode, *parse.StringNode, *parse.BoolNode, *parse.NumberNode,
		*parse.DotNode, *parse.CommentNode:
		return nil
	case *parse.VariableNode: // $ is the destination
		if n.Ident[0] == "$" {
			return nil
		}
	}
	return fmt.Errorf("%s: must have only fields, labels and conditions", mesh.Clip(n.String()))
}

// allowed are the functions of a template: label, and those of conditions.
var allowed = []string{"label", "and", "or", "not", "eq", "ne"}

func functions(label func(string) (string, error)) template.FuncMap {
	return template.FuncMap{
		"label": label,
	}
}

// Render gives the hostname of one destination; labels are what the function label looks into.
// White space around the hostname is dropped, such as the newline at the end of a YAML block. The
// error says that a label is missing or that the result is not a DNS name.
func (t *Template) Render(in Input, labels map[string]string) (string, error) {
	return t.render(in, func(key string) (string, error) {
		v, ok := labels[key]
		if !ok {
			return "", fmt.Errorf("label %s is missing", key)
		}
		return v, nil
	})
}

// Check renders the template for a destination that has every label, to find what can never work.
func (t *Template) Check() error {
	stub := Input{
		Name:        "name",
		DisplayName: "display",
		Namespace:   "namespace",
		Mesh:        "mesh",
		Zone:        "zone",
	}
	_, err := t.render(stub, func(string) (string, error) { return "label", nil })
	return err
}

func (t *Template) render(in Input, label func(string) (string, error)) (string, error) {
	// Functions belong to a template, so each execution that has labels of its own needs a copy.
	execution, err := t.parsed.Clone()
	if err != nil {
		return "", fmt.Errorf("copy of the template: %w", err)
	}
	var out limited
	if err := execution.Funcs(functions(label)).Execute(&out, in); err != nil {
		return "", fmt.Errorf("cannot be rendered: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	host := strings.TrimSpace(out.String())
	if !mesh.IsDNSName(host) {
		return "", fmt.Errorf("gives %q, which is not a DNS name", mesh.Clip(host))
	}
	return host, nil
}

// maxText bounds what a template may write; a DNS name is shorter.
const maxText = 1024

// limited rejects text beyond maxText.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxText {
		return 0, errors.New("gives too much text")
	}
	return l.Builder.Write(p)
}
