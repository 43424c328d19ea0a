package validate

import (
	"github.com/meridian-mesh/meridian/mesh/hostname"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// The template is tried with stub values.
func hostnameGeneratorRules(c *check, s *meshv1.HostnameGenerator) {
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
	template, err := hostname.Parse(s.GetTemplate())
	if err == nil {
		err = template.Check()
	}
	if err != nil {
		c.add("spec.template", "%v", err)
	}
}
