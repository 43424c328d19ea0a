package validate

import (
	"fmt"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshMultiZoneServiceRules(c *check, s *meshv1.MeshMultiZoneService) {
	c.labelSelector("spec.selector.meshService.matchLabels",
		s.GetSelector().GetMeshService().GetMatchLabels())
	names, numbers := map[string]bool{}, map[uint32]bool{}
	for i, p := range s.GetPorts() {
		path := fmt.Sprintf("spec.ports[%d]", i)
		if numbers[p.GetPort()] {
			c.add(path+".port", "is given twice")
		}
		numbers[p.GetPort()] = true
		c.portNames(names, path, p.GetName(), p.GetPort())
	}
}
