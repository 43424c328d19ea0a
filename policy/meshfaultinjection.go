package policy

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// FaultSet is what the MeshFaultInjections of one inbound say. If HasRules, Rules hold and the from
// form is ignored.
type FaultSet struct {
	HasRules bool
	// Rules in the order in which a request meets them: specific callers first, then by ascending
	// priority. They are not merged: each that fits acts on its own.
	Rules []FaultRule
	// From: at most one fits a caller.
	From []CallerFaults
}

// FaultRule is the faults for callers that match.
type FaultRule struct {
	// Match is nil for every caller.
	Match  *meshv1.Match
	Conf   *meshv1.MeshFaultInjection_Conf
	Origin Origin
}

// CallerFaults is the faults for callers with some tags. Principal.Origin is the entry that says so.
type CallerFaults struct {
	Principal
	Conf *meshv1.MeshFaultInjection_Conf
}

// Faults collects the MeshFaultInjections of one inbound. The
// policies are those that select the inbound, ascending by [Compare]. Matches of one rule are
// alternatives: one that another of the same rule covers is left out, so that the rule does not act
// twice on a caller that fits both.
func Faults(policies []*mesh.Resource) FaultSet {
	var out FaultSet
	var from []fromFaults
	for _, p := range policies {
		spec, ok := p.Spec.(*meshv1.MeshFaultInjection)
		if !ok {
			continue
		}
		for i, r := range spec.GetRules() {
			out.HasRules = true
			for _, m := range widest(r.GetMatches()) {
				out.Rules = append(out.Rules, FaultRule{
					Match:  m,
					Conf:   r.GetDefault(),
					Origin: Origin{Key: p.Key, Rule: i},
				})
			}
		}
		if len(spec.GetRules()) > 0 {
			continue
		}
		for i, f := range spec.GetFrom() {
			// A list that is not given replaces none.
			if tags, ok := callerTags(f.GetTargetRef()); ok && len(f.GetDefault().GetHttp()) > 0 {
				from = append(from, fromFaults{
					tags:   tags,
					conf:   f.GetDefault(),
					origin: Origin{Key: p.Key, Rule: i},
				})
			}
		}
	}
	slices.SortStableFunc(out.Rules, func(a, b FaultRule) int { return compareMatches(a.Match, b.Match) })
	if !out.HasRules {
		out.From = callerFaults(from)
	}
	return out
}

// widest are the matches that no other match covers, each once; nil stands for everybody.
func widest(matches []*meshv1.Match) []*meshv1.Match {
	everybody := func(m *meshv1.Match) bool { return m.GetSpiffeId() == nil && m.GetSni() == nil }
	if len(matches) == 0 || slices.ContainsFunc(matches, everybody) {
		return []*meshv1.Match{nil}
	}
	var out []*meshv1.Match
	for i, m := range matches {
		covered := false
		for j, o := range matches {
			if i != j && subsumes(o, m) && (!subsumes(m, o) || j < i) {
				covered = true
			}
		}
		if !covered {
			out = append(out, m)
		}
	}
	return out
}

type fromFaults struct {
	tags   []Tag
	conf   *meshv1.MeshFaultInjection_Conf
	origin Origin
}

// callerFaults turns a list in which the last fitting entry decides, because its list replaces
// those before, into a set of which at most one fits.
func callerFaults(list []fromFaults) []CallerFaults {
	var out []CallerFaults
	for i, e := range list {
		c := CallerFaults{Principal: Principal{All: e.tags, Origin: e.origin}, Conf: e.conf}
		covered := false
		for _, later := range list[i+1:] {
			if covered = subset(later.tags, e.tags); covered {
				break
			}
			c.Not = append(c.Not, later.tags)
		}
		if !covered {
			out = append(out, c)
		}
	}
	return out
}
