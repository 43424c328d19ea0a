package policy

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Fault is a list of faults and the callers that meet them. Faults of different elements are independent: a request can
// meet several.
type Fault struct {
	// Matches of which one must fit, each with at least one field; none fits every caller.
	Matches []*meshv1.Match
	// Principal of the older form, which tells callers by their tags; nil else.
	Principal *Principal
	Faults    []*meshv1.MeshFaultInjection_Fault
	Origin    Origin
}

// Faults collects the MeshFaultInjections of one inbound (traffic-policies 10), in the order in which requests meet
// them. The policies are those that select the inbound, ascending by [Compare].
//
// Rules are never merged: each that fits counts. A rule counts once for a caller, however many of its matches fit; its
// place is that of its most specific match. "from" counts only if no policy has rules; of its entries the last that fits
// a caller holds, and what earlier ones say is nothing to that caller.
func Faults(policies []*mesh.Resource) []Fault {
	var rules, from []Fault
	var entries []fromEntry
	for _, p := range policies {
		for _, e := range RuleEntries(p) {
			conf, _ := e.Conf.(*meshv1.MeshFaultInjection_Conf)
			f := Fault{Faults: conf.GetHttp(), Origin: Origin{Key: p.Key, Rule: e.Index}}
			for _, m := range matchesOf(e) {
				if m.GetSpiffeId() == nil && m.GetSni() == nil {
					f.Matches = nil // everybody
					break
				}
				f.Matches = append(f.Matches, m)
			}
			slices.SortStableFunc(f.Matches, compareMatches)
			rules = append(rules, f)
		}
		for _, e := range FromEntries(p) {
			conf, _ := e.Conf.(*meshv1.MeshFaultInjection_Conf)
			tags, ok := callerTags(e.Target)
			if !ok || len(conf.GetHttp()) == 0 {
				continue // an empty list is no list, and replaces none
			}
			entries = append(entries, fromEntry{tags: tags, action: strconv.Itoa(len(entries)), origin: Origin{Key: p.Key, Rule: e.Index}})
			from = append(from, Fault{Faults: conf.GetHttp()})
		}
	}
	if len(rules) > 0 {
		rules = slices.DeleteFunc(rules, func(f Fault) bool { return len(f.Faults) == 0 })
		slices.SortStableFunc(rules, func(a, b Fault) int { return cmp.Compare(matchRank(first(a.Matches)), matchRank(first(b.Matches))) })
		return rules
	}
	var out []Fault
	for i, f := range from {
		// This entry's callers, without those of later entries.
		list := principals(entries[i:], func(action string) bool { return action == entries[i].action })
		if len(list) == 1 {
			f.Principal, f.Origin = &list[0], entries[i].origin
			out = append(out, f)
		}
	}
	return out
}

// first is the most specific of sorted matches; nil, which is the least specific, if there is none.
func first(list []*meshv1.Match) *meshv1.Match {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}
