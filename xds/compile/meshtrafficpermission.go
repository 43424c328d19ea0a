package compile

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

func meshTrafficPermissionEveryInbound(meshName string, list []*mesh.Resource, out *InboundConfig) {
	out.Inbound.RBAC = Permission(meshName, policy.Permissions(list))
}

func meshTrafficPermissionInClear(out *ir.InboundPolicy) { out.RBAC = nil }

// Permission turns what MeshTrafficPermissions say about one inbound into a table of callers.
// Nothing said denies all.
func Permission(meshName string, p policy.Permission) *ir.RBAC {
	out := &ir.RBAC{ByRules: p.HasRules}
	if p.HasRules {
		for _, m := range p.Deny {
			out.Rules = append(out.Rules, ir.Rule{Match: identityMatch(m.Match), Name: m.Policy, Deny: true})
		}
		for _, m := range p.Allow {
			out.Rules = append(out.Rules, ir.Rule{Match: identityMatch(m.Match), Name: m.Policy})
		}
		for _, m := range p.Shadow {
			out.Shadow = append(out.Shadow, ir.Rule{
				Match: identityMatch(m.Match),
				Name:  m.Policy,
				Deny:  true,
			})
		}
		return out
	}
	out.Principals = principals(meshName, p.Principals)
	out.ShadowPrincipals = principals(meshName, p.ShadowPrincipals)
	return out
}

func principals(meshName string, list []policy.Principal) []ir.Principal {
	var out []ir.Principal
	for _, p := range list {
		q := ir.Principal{All: uriMatches(meshName, p.All)}
		for _, not := range p.Not {
			q.Not = append(q.Not, uriMatches(meshName, not))
		}
		out = append(out, q)
	}
	return out
}

func uriMatches(meshName string, tags []policy.Tag) []ir.URIMatch {
	var out []ir.URIMatch
	for _, t := range tags {
		uri, prefix := t.URI(meshName)
		out = append(out, ir.URIMatch{URI: uri, Prefix: prefix})
	}
	return out
}
