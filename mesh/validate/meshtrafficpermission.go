package validate

import (
	"fmt"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshTrafficPermissionRules(c *check, s *meshv1.MeshTrafficPermission) {
	switch {
	case len(s.GetFrom()) == 0 && len(s.GetRules()) == 0:
		c.add("spec", "needs rules or from")
	case len(s.GetFrom()) > 0 && len(s.GetRules()) > 0:
		c.add("spec", "must not combine rules and from: make two policies")
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
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
