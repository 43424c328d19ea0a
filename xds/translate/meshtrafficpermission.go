package translate

import (
	"fmt"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// A permission table becomes up to two filters in a row: one that denies, then one that allows.
// Envoy's classic engine compares each URI SAN of a certificate by itself, which its matcher engine
// does not: certificates of ours have several.
//
// With HTTP the answer is a plain 403. Closing the connection instead, as for TCP, would look to
// the caller like a host that failed, and have it retried and ejected.

func meshTrafficPermissionNetwork(out *chainMessage, l *ir.Listener, c *ir.Chain) error {
	if c.RBAC == nil || c.HTTP != nil {
		return nil
	}
	for _, f := range networkRBAC(l.Name, c.RBAC) {
		if err := out.add("envoy.filters.network.rbac", f); err != nil {
			return err
		}
	}
	return nil
}

// meshTrafficPermissionRequests decides before any other filter sees a request.
func meshTrafficPermissionRequests(out *managerMessage, c *ir.Chain) error {
	if c.RBAC == nil {
		return nil
	}
	return out.first("envoy.filters.http.rbac", httpRBAC(c.RBAC))
}

type rbacStep struct{ rules, shadow *rbacv3.RBAC }

func rbacSteps(r *ir.RBAC) []rbacStep {
	allow := &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: map[string]*rbacv3.Policy{}}
	var out []rbacStep
	if !r.ByRules {
		if p := principalPolicy(r.Principals); p != nil {
			allow.Policies["MeshTrafficPermission"] = p
		}
		step := rbacStep{rules: allow}
		if p := principalPolicy(r.ShadowPrincipals); p != nil {
			step.shadow = &rbacv3.RBAC{
				Action:   rbacv3.RBAC_DENY,
				Policies: map[string]*rbacv3.Policy{"MeshTrafficPermission": p},
			}
		}
		return append(out, step)
	}
	deny := &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}
	for i, rule := range r.Rules {
		to := allow
		if rule.Deny {
			to = deny
		}
		to.Policies[fmt.Sprintf("%s_%03d", rule.Name, i)] = rulePolicy(rule.Match)
	}
	if len(deny.Policies) > 0 {
		out = append(out, rbacStep{rules: deny})
	}
	step := rbacStep{rules: allow}
	if len(r.Shadow) > 0 {
		step.shadow = &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}
		for i, rule := range r.Shadow {
			step.shadow.Policies[fmt.Sprintf("%s_%03d", rule.Name, i)] = rulePolicy(rule.Match)
		}
	}
	return append(out, step)
}

func httpRBAC(r *ir.RBAC) []proto.Message {
	var out []proto.Message
	for _, s := range rbacSteps(r) {
		out = append(out, &httprbacv3.RBAC{Rules: s.rules, ShadowRules: s.shadow})
	}
	return out
}

func networkRBAC(name string, r *ir.RBAC) []*netrbacv3.RBAC {
	var out []*netrbacv3.RBAC
	for _, s := range rbacSteps(r) {
		out = append(out, &netrbacv3.RBAC{
			Rules:       s.rules,
			ShadowRules: s.shadow,
			StatPrefix:  statName(name) + ".",
		})
	}
	return out
}

func anyPrincipal() *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

func anyPermission() *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
}

func presents(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{
		Identifier: &rbacv3.Principal_Authenticated_{
			Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m}}}
}

func all(ids []*rbacv3.Principal) *rbacv3.Principal {
	if len(ids) == 1 {
		return ids[0]
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: ids}}}
}

func rulePolicy(m ir.IdentityMatch) *rbacv3.Policy {
	p := &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{anyPermission()},
		Principals:  []*rbacv3.Principal{anyPrincipal()},
	}
	if m.SNI != "" {
		p.Permissions[0] = &rbacv3.Permission{
			Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: exact(m.SNI)}}
	}
	switch {
	case m.SpiffeID == "":
	case m.Prefix:
		// Whole segments: the identity itself, or something below it.
		id := strings.TrimSuffix(m.SpiffeID, "/")
		p.Principals = []*rbacv3.Principal{presents(exact(id)), presents(prefix(id + "/"))}
	default:
		p.Principals[0] = presents(exact(m.SpiffeID))
	}
	return p
}

func principalPolicy(list []ir.Principal) *rbacv3.Policy {
	if len(list) == 0 {
		return nil
	}
	p := &rbacv3.Policy{Permissions: []*rbacv3.Permission{anyPermission()}}
	for _, one := range list {
		ids := uriPrincipals(one.All)
		for _, not := range one.Not {
			ids = append(ids,
				&rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: all(uriPrincipals(not))}})
		}
		if len(ids) == 0 {
			ids = append(ids, anyPrincipal())
		}
		p.Principals = append(p.Principals, all(ids))
	}
	return p
}

func uriPrincipals(list []ir.URIMatch) []*rbacv3.Principal {
	var out []*rbacv3.Principal
	for _, m := range list {
		if m.Prefix {
			out = append(out, presents(prefix(m.URI)))
		} else {
			out = append(out, presents(exact(m.URI)))
		}
	}
	return out
}
