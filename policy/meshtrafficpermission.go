package policy

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Permission is what the MeshTrafficPermissions of one inbound say. If HasRules, the rules form
// holds and the from form is ignored; else if HasFrom, the from form holds; else everything is
// denied.
type Permission struct {
	HasRules, HasFrom bool
	// Deny, Allow and Shadow are lists in order of evaluation, highest-ranking policy first, more
	// specific matches first. A caller that fits Deny is denied; else one that fits Allow is
	// allowed; else it is denied. Allow includes the matches of Shadow; those are allowed and
	// counted as if denied.
	Deny, Allow, Shadow []PermissionMatch
	// Principals of the from form: a caller that fits one of them is allowed. Empty denies all.
	Principals []Principal
	// ShadowPrincipals are allowed callers to be counted as if denied.
	ShadowPrincipals []Principal
}

// PermissionMatch is one match of a rule.
type PermissionMatch struct {
	Match *meshv1.Match
	// Policy is the KRI of the policy.
	Policy string
	Origin Origin
}

// Permissions collects the MeshTrafficPermissions of one inbound (security reference 4.2 to 4.4).
// The policies are those that select the inbound, ascending by [Compare].
func Permissions(policies []*mesh.Resource) Permission {
	var out Permission
	var from []fromEntry
	for _, p := range slices.Backward(policies) {
		spec, ok := p.Spec.(*meshv1.MeshTrafficPermission)
		if !ok || len(spec.GetRules()) == 0 {
			continue
		}
		out.HasRules = true
		kri := p.Key.KRI("")
		var deny, allow, shadow []PermissionMatch
		for i, r := range spec.GetRules() {
			take := func(to *[]PermissionMatch, matches []*meshv1.Match) {
				for _, m := range matches {
					*to = append(*to, PermissionMatch{
						Match:  m,
						Policy: kri,
						Origin: Origin{Key: p.Key, Rule: i},
					})
				}
			}
			take(&deny, r.GetDefault().GetDeny())
			take(&allow, r.GetDefault().GetAllow())
			take(&allow, r.GetDefault().GetAllowWithShadowDeny())
			take(&shadow, r.GetDefault().GetAllowWithShadowDeny())
		}
		for _, l := range []struct {
			to   *[]PermissionMatch
			from []PermissionMatch
		}{{&out.Deny, deny}, {&out.Allow, allow}, {&out.Shadow, shadow}} {
			slices.SortStableFunc(l.from,
				func(a, b PermissionMatch) int { return compareMatches(a.Match, b.Match) })
			*l.to = append(*l.to, l.from...)
		}
	}
	for _, p := range policies {
		spec, ok := p.Spec.(*meshv1.MeshTrafficPermission)
		if !ok || len(spec.GetRules()) > 0 {
			continue
		}
		for i, f := range spec.GetFrom() {
			out.HasFrom = true
			tags, ok := callerTags(f.GetTargetRef())
			if ok {
				from = append(from, fromEntry{
					tags:   tags,
					action: f.GetDefault().GetAction(),
					origin: Origin{Key: p.Key, Rule: i},
				})
			}
		}
	}
	out.Principals = principals(from, func(action string) bool { return action != "Deny" })
	out.ShadowPrincipals = principals(from,
		func(action string) bool { return action == "AllowWithShadowDeny" })
	return out
}

type fromEntry struct {
	tags   []Tag
	action string
	origin Origin
}

// principals turns a list in which the last fitting entry decides into a set: a caller fits one of
// the principals exactly if the last entry that fits it is one that is wanted. An entry that is
// wanted needs no exception for a later one that is wanted too.
func principals(list []fromEntry, wanted func(action string) bool) []Principal {
	var out []Principal
	for i, e := range list {
		if !wanted(e.action) {
			continue
		}
		p := Principal{All: e.tags, Origin: e.origin}
		covered := false
		for _, later := range list[i+1:] {
			if subset(later.tags, e.tags) {
				covered = true // the later entry speaks for all of these callers, whatever it says
				break
			}
			if !wanted(later.action) {
				p.Not = append(p.Not, later.tags)
			}
		}
		if !covered {
			out = append(out, p)
		}
	}
	return out
}
