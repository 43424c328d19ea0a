package validate

import (
	"fmt"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshTCPRouteRules(c *check, s *meshv1.MeshTCPRoute) {
	for i, to := range s.GetTo() {
		for j, r := range to.GetRules() {
			for k, b := range r.GetDefault().GetBackendRefs() {
				c.backend(fmt.Sprintf("spec.to[%d].rules[%d].default.backendRefs[%d]", i, j, k), b)
			}
		}
	}
}
