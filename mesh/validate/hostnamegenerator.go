package validate

import (
	"strings"

	"github.com/meridian-mesh/meridian/mesh/hostname"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// The template is tried with stub values.
func hostnameGeneratorRules(c *check, s *meshv1.HostnameGenerator) {
	// The selector has a field for each kind of destination.
	var names []string
	given := 0
	sel := s.GetSelector().ProtoReflect()
	for fields, i := sel.Descriptor().Fields(), 0; i < fields.Len(); i++ {
		fd := fields.Get(i)
		names = append(names, fd.JSONName())
		if !sel.Has(fd) {
			continue
		}
		given++
		labels, ok := sel.Get(fd).Message().Interface().(*meshv1.HostnameGenerator_LabelSelector)
		if ok {
			c.labelSelector("spec.selector."+fd.JSONName()+".matchLabels", labels.GetMatchLabels())
		}
	}
	if given != 1 {
		last := len(names) - 1
		c.add("spec.selector", "needs exactly one of %s and %s", strings.Join(names[:last], ", "),
			names[last])
	}
	if s.GetExtension() != nil && s.GetExtension().GetType() == "" {
		c.add("spec.extension.type", "is required")
	}
	if s.GetTemplate() == "" {
		return // the schema says so
	}
	template, err := hostname.Parse(s.GetTemplate())
	if err == nil {
		err = template.Check()
	}
	if err != nil {
		c.add("spec.template", "%v", err)
	}
}
