package compile

import (
	"slices"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Some policies of an inbound say different things about different callers (traffic-policies 1.10). Each has its own list
// of conditions, most specific first, of which the first that fits holds. A request takes one route, so the lists are
// crossed: a route for each combination that a caller can meet.

func identityMatch(m *meshv1.Match) ir.IdentityMatch {
	return ir.IdentityMatch{SpiffeID: m.GetSpiffeId().GetValue(), Prefix: m.GetSpiffeId().GetType() == "Prefix", SNI: m.GetSni().GetValue()}
}

// Caller is what holds for requests by callers that fit all of Matches.
type Caller struct {
	Matches []ir.IdentityMatch
	Route   ir.RouteTimeouts
	// Limit as in [ir.Route].
	Limit *ir.RequestLimit
}

// NewCallers crosses the lists. The first Caller that fits has what the first that fits of each list says, and base or
// the limit of the inbound if none of a list fits. A combination that an earlier one covers is left out: with one list
// empty there is no more than the other, and conditions that contain one another add none.
func NewCallers(base ir.RouteTimeouts, timeouts []CallerTimeouts, limits []CallerLimit) []Caller {
	var out []Caller
	add := func(c Caller) {
		if len(c.Matches) == 0 || slices.ContainsFunc(out, func(o Caller) bool { return covers(o.Matches, c.Matches) }) {
			return
		}
		out = append(out, c)
	}
	for i := range len(timeouts) + 1 {
		for j := range len(limits) + 1 {
			c := Caller{Route: base}
			if i < len(timeouts) {
				c.Matches, c.Route = []ir.IdentityMatch{timeouts[i].Match}, timeouts[i].Route
			}
			if j < len(limits) {
				c.Matches, c.Limit = both(c.Matches, limits[j].Match), limits[j].Limit
			}
			if meets(c.Matches) {
				add(c)
			}
		}
	}
	return out
}

// fits says that whoever fits b fits a.
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

// covers says that whoever fits all of b fits all of a.
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
	return append(slices.DeleteFunc(slices.Clone(list), func(o ir.IdentityMatch) bool { return fits(o, m) }), m)
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
		r.Match.Callers, r.Timeouts, r.Limit = c.Matches, c.Route, c.Limit
		out = append(out, r)
	}
	return append(out, base)
}
