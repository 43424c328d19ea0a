package validate

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// permission has the rules of its kind.
func (c *check) permission(s *meshv1.MeshTrafficPermission) {
	c.top(mesh.KindMeshTrafficPermission, s.GetTargetRef(), true)
	switch {
	case len(s.GetFrom()) == 0 && len(s.GetRules()) == 0:
		c.add("spec", "needs rules or from")
	case len(s.GetFrom()) > 0 && len(s.GetRules()) > 0:
		c.add("spec", "must not combine rules and from: make two policies")
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, f := range s.GetFrom() {
		c.callerTarget(fmt.Sprintf("spec.from[%d].targetRef", i), f.GetTargetRef())
	}
	for i, r := range s.GetRules() {
		path, d := fmt.Sprintf("spec.rules[%d].default", i), r.GetDefault()
		if d != nil && len(d.GetAllow())+len(d.GetDeny())+len(d.GetAllowWithShadowDeny()) == 0 {
			c.add(path, "needs at least one of allow, deny and allowWithShadowDeny")
		}
		for _, l := range []struct {
			name    string
			matches []*meshv1.Match
		}{{"allow", d.GetAllow()}, {"deny", d.GetDeny()},
			{"allowWithShadowDeny", d.GetAllowWithShadowDeny()}} {
			for j, m := range l.matches {
				c.match(fmt.Sprintf("%s.%s[%d]", path, l.name, j), m)
			}
		}
	}
}
