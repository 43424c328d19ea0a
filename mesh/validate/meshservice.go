package validate

import (
	"fmt"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshServiceRules(c *check, s *meshv1.MeshService) {
	sel, given := s.GetSelector(), 0
	for _, b := range []bool{len(sel.GetDataplaneTags()) > 0, sel.GetDataplaneRef() != nil,
		sel.GetDataplaneLabels() != nil} {
		if b {
			given++
		}
	}
	switch {
	case given > 1:
		c.add("spec.selector", "must have at most one of dataplaneTags, dataplaneRef and dataplaneLabels")
	case given == 0:
		c.warn("spec.selector", "is empty: the service has no instances")
	}
	c.tags("spec.selector.dataplaneTags", sel.GetDataplaneTags(), false)
	c.labelSelector("spec.selector.dataplaneLabels.matchLabels", sel.GetDataplaneLabels().GetMatchLabels())
	if sel.GetDataplaneRef() != nil && sel.GetDataplaneRef().GetName() == "" {
		c.add("spec.selector.dataplaneRef.name", "is required")
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for i, p := range s.GetPorts() {
		path := fmt.Sprintf("spec.ports[%d]", i)
		protocol := p.GetAppProtocol()
		if protocol == "" {
			protocol = "tcp"
		}
		key := fmt.Sprintf("%d/%s", p.GetPort(), protocol)
		if keys[key] {
			c.add(path+".port", "is given twice with protocol %s", protocol)
		}
		keys[key] = true
		c.portNames(names, path, p.GetName(), p.GetPort())
		c.targetPort(path+".targetPort", p.GetTargetPort())
	}
}

func (c *check) targetPort(path string, t *meshv1.IntOrString) {
	switch v := t.GetValue().(type) {
	case nil:
		c.warn(path, "is not given: the port has no instances")
	case *meshv1.IntOrString_IntValue:
		if v.IntValue < 1 || v.IntValue > 65535 {
			c.add(path, "must be a number from 1 to 65535 or the name of an inbound")
		}
	case *meshv1.IntOrString_StringValue:
		if v.StringValue == "" {
			c.add(path, "must be a number from 1 to 65535 or the name of an inbound")
		}
	}
}
