package mesh

import (
	"errors"
	"fmt"
	"strings"
	"text/template"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// HostnameInput is what the template of a HostnameGenerator sees of a destination.
type HostnameInput struct {
	Name, DisplayName, Namespace, Mesh, Zone string
	// Labels are what the function label looks into.
	Labels map[string]string
}

// RenderHostname executes the template of a HostnameGenerator. The error says what is wrong with
// the template, that a label is missing, or that the result is no DNS name.
func RenderHostname(text string, in HostnameInput) (string, error) {
	return render(text, in, func(key string) (string, error) {
		v, ok := in.Labels[key]
		if !ok {
			return "", fmt.Errorf("the resource has no label %q", key)
		}
		return v, nil
	})
}

// maxHostname bounds what a template may write; a DNS name is shorter.
const maxHostname = 1024

func render(text string, in HostnameInput, label func(string) (string, error)) (string, error) {
	noFormat := func(...any) (string, error) { return "", errors.New("there is no function printf") }
	t, err := template.New("hostname").Funcs(template.FuncMap{"label": label,
		"printf": noFormat}).Option("missingkey=error").Parse(text)
	if err != nil {
		return "", fmt.Errorf("not a template: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	var out limited
	if err := t.Execute(&out, in); err != nil {
		return "", fmt.Errorf("cannot be rendered: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	host := strings.TrimSpace(out.String())
	if !isSubdomain(host) {
		return "", fmt.Errorf("gives %q, which is no DNS name", clip(host))
	}
	return host, nil
}

// limited refuses to grow beyond maxHostname.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxHostname {
		return 0, errors.New("gives too much text")
	}
	return l.Builder.Write(p)
}

// hostnameGenerator: core-resources 14. The template is tried with stub values.
func (c *check) hostnameGenerator(s *meshv1.HostnameGenerator) {
	sel, given := s.GetSelector(), 0
	for _, l := range []struct {
		name     string
		selector *meshv1.HostnameGenerator_LabelSelector
	}{{"meshService", sel.GetMeshService()}, {"meshExternalService", sel.GetMeshExternalService()},
		{"meshMultiZoneService", sel.GetMeshMultiZoneService()}} {
		if l.selector != nil {
			given++
			c.labelSelector("spec.selector."+l.name+".matchLabels", l.selector.GetMatchLabels())
		}
	}
	if given != 1 {
		c.add("spec.selector",
			"needs exactly one of meshService, meshExternalService and meshMultiZoneService")
	}
	if s.GetExtension() != nil && s.GetExtension().GetType() == "" {
		c.add("spec.extension.type", "is required")
	}
	if s.GetTemplate() == "" {
		return // the schema says so
	}
	stub := HostnameInput{
		Name:        "name",
		DisplayName: "display",
		Namespace:   "namespace",
		Mesh:        "mesh",
		Zone:        "zone",
	}
	if _, err := render(s.GetTemplate(), stub,
		func(string) (string, error) { return "label", nil }); err != nil {
		c.add("spec.template", "%v", err)
	}
}
