package policy

import (
	"cmp"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
)

// ranked is an entry of "to" with the head of its policy.
type ranked struct {
	Entry
	policy *mesh.Resource
	head   Head
}

// toRank is key 6 of traffic-policies 1.7.
func toRank(e Entry) int {
	rank := 2 * kindRank(e.Target.GetKind())
	if e.Target.GetKind() == targetService && e.Target.GetSectionName() != "" {
		rank++
	}
	return rank
}

// entriesFor are the entries of "to" that mean d, by ascending priority.
func entriesFor(policies []*mesh.Resource, d Destination) []ranked {
	var out []ranked
	for _, p := range policies {
		var head Head
		for e := range entries(p, "to") {
			if head.Target == nil {
				head = HeadOf(p)
			}
			ref := p.Key
			ref.Zone, ref.Namespace = head.Zone, head.Namespace
			if ResolvesTo(e.Target, ref, d) {
				out = append(out, ranked{Entry: e, policy: p, head: head})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b ranked) int {
		return cmp.Or(compareRank(a.head, b.head), cmp.Compare(toRank(a.Entry), toRank(b.Entry)),
			compareName(a.head, b.head), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// ForDestination merges the "to" entries of one kind's policies for d (traffic-policies 1.7, 1.9 and 1.11). The policies
// are those that select the proxy, ascending by [Compare]. A MeshHTTPRoute as destination gets what is said of the route
// and of the whole mesh, not what is said of the service behind it.
func ForDestination(policies []*mesh.Resource, d Destination) Effective {
	var e Effective
	for _, r := range entriesFor(policies, d) {
		e.add(r.Conf, Origin{Key: r.policy.Key, Rule: r.Index})
	}
	return e
}
