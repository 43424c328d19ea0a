package compile

import (
	"slices"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Some policies of an inbound say different things about different callers.
// Each has its own list of conditions, most specific first, of which the first that fits holds. A
// request takes one route, so the lists are crossed: a route for each combination that a caller can
// meet.

func identityMatch(m *meshv1.Match) ir.IdentityMatch {
	return ir.IdentityMatch{
		SpiffeID: m.GetSpiffeId().GetValue(),
		Prefix:   m.GetSpiffeId().GetType() == "Prefix",
		SNI:      m.GetSni().GetValue(),
	}
}

// Caller is what holds for requests by callers that fit all of Matches. The first that fits counts.
type Caller struct {
	Matches []ir.IdentityMatch
	Route   ir.RoutePolicy
}

// callerRule is one condition of one kind, and what the kind says of callers that fit.
type callerRule struct {
	match ir.IdentityMatch
	apply func(route *ir.RoutePolicy)
}

// crossCallers crosses the list with the rules of one more kind. The first Caller that fits has
// what the first that fits of each list says. The last Caller of both the list and the result has
// no conditions. A combination that an earlier one covers is left out: conditions that contain one
// another add none.
func crossCallers(list []Caller, rules []callerRule) []Caller {
	var out []Caller
	for _, c := range list {
		for _, r := range append(rules[:len(rules):len(rules)], callerRule{}) {
			n := c
			if r.apply != nil {
				n.Matches = both(c.Matches, r.match)
				r.apply(&n.Route)
			}
			if meets(n.Matches) &&
				!slices.ContainsFunc(out, func(o Caller) bool { return covers(o.Matches, n.Matches) }) {
				out = append(out, n)
			}
		}
	}
	return out
}

// fits says that every caller that fits b fits a.
func fits(a, b ir.IdentityMatch) bool {
	if a.SNI != "" && a.SNI != b.SNI {
		return false
	}
	switch {
	case a.SpiffeID == "":
		return true
	case a.Prefix:
		return b.SpiffeID != "" && policy.PrefixCovers(a.SpiffeID, b.SpiffeID)
	}
	return !b.Prefix && a.SpiffeID == b.SpiffeID
}

// covers says that every caller that fits all of b fits all of a.
func covers(a, b []ir.IdentityMatch) bool {
	return !slices.ContainsFunc(a, func(m ir.IdentityMatch) bool {
		return !slices.ContainsFunc(b, func(o ir.IdentityMatch) bool { return fits(m, o) })
	})
}

// both is the condition that all of list and m hold, without what follows from the rest.
func both(list []ir.IdentityMatch, m ir.IdentityMatch) []ir.IdentityMatch {
	if covers([]ir.IdentityMatch{m}, list) && len(list) > 0 {
		return list
	}
	return append(slices.DeleteFunc(slices.Clone(list), func(o ir.IdentityMatch) bool { return fits(o, m) }),
		m)
}

// meets says that a caller can fit all: it can have several identities, but names one server.
func meets(list []ir.IdentityMatch) bool {
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.SNI != "" && b.SNI != "" && a.SNI != b.SNI {
				return false
			}
		}
	}
	return true
}

// callerRoutes are the routes of some callers, in front of the route of everybody.
func callerRoutes(base ir.Route, list []Caller) []ir.Route {
	var out []ir.Route
	for _, c := range list {
		r := base
		r.Match.Callers, r.RoutePolicy = c.Matches, c.Route
		out = append(out, r)
	}
	return append(out, base)
}

// needsSNI says that a chain asks for the server name, which a listener must then read.
func needsSNI(c ir.Chain) bool {
	var all []ir.IdentityMatch
	if c.RBAC != nil {
		for _, r := range slices.Concat(c.RBAC.Rules, c.RBAC.Shadow) {
			all = append(all, r.Match)
		}
	}
	if c.HTTP != nil {
		for _, r := range c.HTTP.Routes.Routes {
			all = append(all, r.Match.Callers...)
		}
		for _, f := range c.Faults {
			all = append(all, f.Callers...)
		}
	}
	return slices.ContainsFunc(all, func(m ir.IdentityMatch) bool { return m.SNI != "" })
}
