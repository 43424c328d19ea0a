package validate

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// tcpRoute has the rules of its kind.
func (c *check) tcpRoute(s *meshv1.MeshTCPRoute) {
	c.top(mesh.KindMeshTCPRoute, s.GetTargetRef(), false)
	kinds := destination.Referable()
	if s.GetTargetRef().GetKind() == "MeshGateway" {
		kinds = []string{"Mesh"}
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: kinds})
		for j, r := range to.GetRules() {
			for k, b := range r.GetDefault().GetBackendRefs() {
				c.backend(fmt.Sprintf("%s.rules[%d].default.backendRefs[%d]", path, j, k), b)
			}
		}
	}
}
